//! Where prompts and their targets stand in a batch, each beginning that several of them share computed once.

use crate::batch::BatchBuilder;

/// Beginnings of fewer tokens are computed for every prompt: attention pays for each further row.
const LEAST_SHARED: usize = 8;

/// A prompt and the targets that continue it, none of them empty.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) prompt: Vec<u32>,
    pub(super) targets: Vec<Vec<u32>>,
}

/// Where a text's tokens stand in the batch's line.
#[derive(Debug, Default, Clone)]
pub(super) struct Place {
    /// The prompt's last token.
    pub(super) prompt_end: usize,
    /// For each target its first token; the last token of a target is predicted and never read, so a target of one has none.
    pub(super) targets: Vec<usize>,
}

/// Rows for these texts, and the place of each. A prompt is computed once for its targets; where beginnings are shared, the
/// rows of prompts that begin alike continue one row, and so on along the tree that they form.
pub(super) fn lay_out(texts: &[Text], share: bool) -> (BatchBuilder, Vec<Place>) {
    let mut layout = Layout { texts, batch: BatchBuilder::default(), ends: Vec::new(), places: Vec::new() };
    layout.places.resize(texts.len(), Place::default());
    let mut order: Vec<usize> = (0..texts.len()).collect();
    if share {
        order.sort_by(|&a, &b| texts[a].prompt.cmp(&texts[b].prompt).then(a.cmp(&b)));
        layout.share(&order, 0, None);
    } else {
        order.iter().for_each(|&at| layout.text(at, 0, None));
    }
    (layout.batch, layout.places)
}

struct Layout<'a> {
    texts: &'a [Text],
    batch: BatchBuilder,
    /// The last token of each row.
    ends: Vec<usize>,
    places: Vec<Place>,
}

impl Layout<'_> {
    /// Texts in the order of their prompts, of which so many tokens are laid out already and end in a row.
    fn share(&mut self, texts: &[usize], laid_out: usize, row: Option<usize>) {
        let common = |a: usize, b: usize| {
            let (a, b) = (&self.texts[a].prompt, &self.texts[b].prompt);
            a.iter().zip(b).take_while(|(a, b)| a == b).count()
        };
        let (&[first, ..], &[.., last]) = (texts, texts) else { return };
        if first == last {
            return self.text(first, laid_out, row);
        }
        // In this order no two prompts have less in common than the first and the last one.
        let shared = common(first, last);
        if shared >= laid_out + LEAST_SHARED {
            let all = self.texts;
            let row = self.row(&all[first].prompt[laid_out..shared], row);
            return self.share(texts, shared, Some(row));
        }
        let runs: Vec<&[usize]> = texts.chunk_by(|&a, &b| common(a, b) >= laid_out + LEAST_SHARED).collect();
        for run in runs {
            self.share(run, laid_out, row);
        }
    }

    /// What is left of a text after so many tokens of its prompt.
    fn text(&mut self, at: usize, laid_out: usize, mut row: Option<usize>) {
        let all = self.texts;
        let Text { prompt, targets } = &all[at];
        let rest = &prompt[laid_out..];
        let read = |target: &Vec<u32>| target[..target.len() - 1].to_vec();
        let mut place = Place::default();
        if let [target] = &targets[..] {
            let start = self.batch.tokens();
            place.prompt_end = match row {
                Some(row) if rest.is_empty() => self.ends[row],
                _ => start + rest.len() - 1,
            };
            place.targets.push(start + rest.len());
            self.row_of(&[rest, &read(target)].concat(), row);
        } else {
            row = self.row_of(rest, row);
            place.prompt_end = row.map_or(0, |row| self.ends[row]);
            for target in targets {
                place.targets.push(self.batch.tokens());
                self.row_of(&read(target), row);
            }
        }
        self.places[at] = place;
    }

    /// A row of these tokens after another one, or that one where there are none.
    fn row_of(&mut self, ids: &[u32], after: Option<usize>) -> Option<usize> {
        if ids.is_empty() { after } else { Some(self.row(ids, after)) }
    }

    fn row(&mut self, ids: &[u32], after: Option<usize>) -> usize {
        self.ends.push(self.batch.tokens() + ids.len() - 1);
        match after {
            Some(of) => self.batch.continuation(of, ids),
            None => self.batch.row(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Context, Limits};

    const LIMITS: Limits = Limits { vocabulary: 100, positions: 100 };

    fn text(prompt: &[u32], targets: &[&[u32]]) -> Text {
        Text { prompt: prompt.to_vec(), targets: targets.iter().map(|target| target.to_vec()).collect() }
    }

    /// The tokens that a token of the batch sees, itself the last.
    fn seen(batch: &Batch, token: usize) -> Vec<i64> {
        let ids = Vec::<i64>::try_from(batch.ids()).unwrap();
        let rows = batch.rows();
        let mut row = rows.iter().find(|row| (row.start..row.start + row.len).contains(&token)).unwrap();
        let mut seen = ids[row.start..=token].to_vec();
        while let Context::Row(of) = row.context {
            row = &rows[of];
            seen.splice(0..0, ids[row.start..row.start + row.len].iter().copied());
        }
        seen
    }

    fn check(texts: &[Text], share: bool) -> usize {
        let (builder, places) = lay_out(texts, share);
        let batch = builder.build(LIMITS, tch::Device::Cpu).unwrap();
        let positions = Vec::<i64>::try_from(&batch.positions).unwrap();
        for (text, place) in texts.iter().zip(&places) {
            let prompt: Vec<i64> = text.prompt.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(seen(&batch, place.prompt_end), prompt);
            for (target, &from) in text.targets.iter().zip(&place.targets) {
                let mut expected = prompt.clone();
                for (at, &id) in target[..target.len() - 1].iter().enumerate() {
                    expected.push(i64::from(id));
                    assert_eq!(seen(&batch, from + at), expected);
                    assert_eq!(positions[from + at], expected.len() as i64 - 1);
                }
            }
        }
        batch.tokens()
    }

    #[test]
    fn every_token_sees_its_own_text_and_shared_beginnings_stand_once() {
        let long = |end: &[u32]| [&(0..20).collect::<Vec<u32>>(), end].concat();
        let texts = [
            text(&long(&[30, 31]), &[&[1, 2, 3]]),
            text(&[50], &[&[4]]),
            text(&long(&(40..50).chain([51]).collect::<Vec<_>>()), &[&[5], &[6, 7]]),
            // A prompt that is the beginning of others, with one target and with two.
            text(&long(&[]), &[&[8, 9]]),
            text(&long(&[]), &[&[8, 9], &[10]]),
            text(&long(&(40..50).chain([52, 53]).collect::<Vec<_>>()), &[&[11, 12]]),
            // Too little in common with those above.
            text(&[0, 1, 2, 60, 61, 62, 63, 64, 65, 66], &[&[13, 14]]),
            text(&[0, 1, 2, 60, 61, 62, 63, 64, 65, 66], &[&[1]]),
        ];
        let apart = (22 + 2) + 1 + (31 + 1) + (20 + 1) + (20 + 1) + (32 + 1) + (10 + 1) + 10;
        assert_eq!(check(&texts, false), apart);
        // 20 tokens stand once instead of five times, 10 once instead of twice, 10 once instead of twice.
        assert_eq!(check(&texts, true), apart - 80 - 10 - 10);
        assert_eq!(check(&texts[..1], true), 24);
    }

    #[test]
    fn random_prompts_see_what_they_say() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..50 {
            let texts: Vec<Text> = (0..next(9) + 1)
                .map(|_| {
                    // Few different blocks, so that many begin alike.
                    let blocks = next(4) + 1;
                    let prompt: Vec<u32> =
                        (0..blocks).flat_map(|_| vec![next(2) as u32; next(3) as usize * 5 + 1]).collect();
                    let targets =
                        (0..next(3) + 1).map(|_| vec![next(9) as u32; next(4) as usize + 1]).collect();
                    Text { prompt, targets }
                })
                .collect();
            assert!(check(&texts, true) <= check(&texts, false));
        }
    }
}
