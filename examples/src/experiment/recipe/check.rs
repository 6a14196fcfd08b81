//! What the recipe of an experiment may say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_train::Schedule;

use super::{AlignPart, ExperimentRecipe, System};
use crate::experiment::compare::LEVEL;
use crate::recipe::{ModelRecipe, check_rejected};
use crate::workspace::lies_in;

impl ExperimentRecipe {
    /// Checks every range.
    pub(super) fn validate(&self) -> Result<()> {
        ensure!(!self.out.as_os_str().is_empty(), "`out` is empty; name a folder");
        ensure!(!self.seeds.is_empty(), "`seeds` is empty; give at least one");
        ensure!(once(&self.seeds), "`seeds` names one of them twice");
        ensure!(!self.systems.is_empty(), "`systems` is empty; name at least one");
        ensure!(once(&self.systems), "`systems` names one of them twice");
        ensure!(once(&self.revised), "`revised` names one of them twice");
        ensure!(
            self.revised.iter().all(|system| self.systems.contains(system)),
            "`revised` names a system that `systems` does not"
        );
        ensure!(
            self.revised.is_empty() || self.data.revised.is_some(),
            "`revised` needs `data.revised`, a file with the revised personas"
        );
        if let ModelRecipe::Folder { chat, lora, .. } = &self.model {
            ensure!(
                chat.is_none() && lora.is_none(),
                "`model.chat` and `model.lora`: this program trains a GPT-2 whole"
            );
        }
        self.model.validate()?;
        self.validate_data()?;
        let one_task = self.one_task();
        for (key, config) in [
            ("fine_tuning", &self.fine_tuning),
            ("stage1", &self.stage1.train),
            ("stage1", &one_task),
            ("align.train", &self.align.train),
        ] {
            config.validate().with_context(|| format!("`{key}`"))?;
        }
        self.validate_align()?;
        self.stage1.validate()?;
        let similarity = self.pairs.similarity;
        ensure!((0.0..=1.0).contains(&similarity), "`pairs.similarity` is {similarity}; it lies in 0 to 1");
        let threshold = self.judge.rule.threshold;
        ensure!((0.0..=1.0).contains(&threshold), "`judge.rule.threshold` is {threshold}; it lies in 0 to 1");
        self.decode.validate().context("`decode`")?;
        self.decode_start.map_or(Ok(()), |decode| decode.validate()).context("`decode_start`")?;
        self.validate_trials()
    }

    fn validate_trials(&self) -> Result<()> {
        let trials = self.report.trials;
        ensure!(trials > 0, "`report.trials` is 0; give at least 1");
        let others = if self.systems.contains(&System::Pal) { self.systems.len() - 1 } else { 0 };
        // Holm's correction multiplies the least p by the rows beside PAL.
        let can_count = |trials: &usize| LEVEL > others as f64 / (trials + 1) as f64;
        let least = (1..).find(can_count).unwrap_or(1);
        ensure!(
            trials >= least,
            "`report.trials` is {trials}; give at least {least}: with fewer no difference of {others} systems from PAL \
             can count"
        );
        Ok(())
    }

    fn validate_data(&self) -> Result<()> {
        let data = &self.data;
        ensure!(
            data.valid.is_some() != data.parts.is_some(),
            "`data` has either `valid`, a file of its own, or `parts`, targets for four parts of `train`"
        );
        for (key, given) in [("revised", data.revised.is_some()), ("split", data.split.is_some())] {
            ensure!(!given || data.valid.is_some(), "`data.{key}` belongs to `data.valid`, which is missing");
        }
        let choose = data.choose;
        ensure!(choose > 0.0 && choose < 1.0, "`data.choose` is {choose}; it lies between 0 and 1");
        for (key, size) in [
            ("train", self.sizes.train),
            ("pairs", self.sizes.pairs),
            ("choose", self.sizes.choose),
            ("test", self.sizes.test),
        ] {
            ensure!(size != Some(0), "`sizes.{key}` is 0; leave it out for all examples");
        }
        Ok(())
    }

    fn validate_align(&self) -> Result<()> {
        let AlignPart { beta, curve, without_pairs_learning_rate, train, rejected, rejected_temperature } =
            &self.align;
        for decode in [Some(self.decode), self.decode_start].into_iter().flatten() {
            check_rejected(*rejected, *rejected_temperature, decode.temperature)?;
        }
        for (key, value) in
            [("beta", Some(*beta)), ("without_pairs_learning_rate", *without_pairs_learning_rate)]
        {
            ensure!(
                value.is_none_or(|value| value > 0.0 && value.is_finite()),
                "`align.{key}` must be above 0 and finite"
            );
        }
        ensure!(once(curve), "`align.curve` names a step twice");
        let kept = self.align.kept();
        let last = kept.last().copied().unwrap_or(train.steps);
        for step in kept {
            let evaluated = train.eval_every > 0 && step.is_multiple_of(train.eval_every);
            ensure!(
                step > 0 && (evaluated || step == last),
                "`align.curve` and `align.train.steps`: step {step} is no multiple of `align.train.eval_every`, and \
                 not the last"
            );
        }
        ensure!(
            last == train.steps || train.schedule == Schedule::Constant,
            "`align.curve` goes past `align.train.steps`: only with the schedule `constant` do the first steps not \
             depend on how many follow"
        );
        Ok(())
    }

    /// Nothing that is read may lie where the experiment writes.
    pub(super) fn check_places(&self, path: &Path) -> Result<()> {
        let mut read = self.data.files();
        read.push(("judge.folder", self.judge.folder.clone()));
        read.push(("the recipe", path.to_path_buf()));
        read.push(("prompts", PathBuf::from(&self.prompts)));
        read.extend(self.predictions.iter().map(|path| ("predictions", path.clone())));
        if let ModelRecipe::Folder { folder, .. } = &self.model {
            read.push(("model.folder", folder.clone()));
        }
        for (key, path) in read {
            ensure!(
                !lies_in(&path, &self.out),
                "{key}, {}, lies in `out`, {}, which is the experiment's; give another `out`",
                path.display(),
                self.out.display()
            );
        }
        Ok(())
    }
}

fn once<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().all(|(at, item)| !list.iter().take(at).any(|earlier| earlier == item))
}
