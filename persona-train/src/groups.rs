//! Which parameters learn at which rate and decay by how much.

use persona_model::{ParameterSpec, Parameters};

use crate::config::{AdamWConfig, Decay, ParameterGroup};
use crate::error::{Error, Result};

/// How one parameter is updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    /// Times the run's learning rate.
    pub(crate) factor: f64,
    /// In units of the parameter's own learning rate.
    pub(crate) weight_decay: f64,
}

/// The optimiser's own rule for every parameter, in storage order.
pub(crate) fn rules(config: &AdamWConfig, parameters: &Parameters) -> Vec<Rule> {
    let decays = |spec: &ParameterSpec| match config.decay {
        Decay::All => true,
        Decay::Matrices => spec.shape.len() > 1,
        Decay::Transformers => spec.shape.len() > 1 && !spec.name.contains("bias"),
    };
    let rule =
        |spec| Rule { factor: 1.0, weight_decay: if decays(spec) { config.weight_decay } else { 0.0 } };
    parameters.specs().iter().map(rule).collect()
}

/// Puts the rules of groups and of LoRA+ in place.
pub(crate) fn apply(
    rules: &mut [Rule],
    groups: &[ParameterGroup],
    ratio: Option<f64>,
    parameters: &Parameters,
) -> Result<()> {
    let names: Vec<&str> = parameters.specs().iter().map(|spec| spec.name.as_str()).collect();
    for pattern in groups.iter().flat_map(|group| &group.parameters) {
        if !names.iter().any(|name| fits(pattern, name)) {
            let example = names.first().copied().unwrap_or_default();
            let reason = format!(
                "`{pattern}` fits none of the {} trained parameters, such as `{example}`",
                names.len()
            );
            return Err(Error::Config { key: "groups", reason });
        }
    }
    if ratio.is_some() && !names.iter().any(|name| is_b(name)) {
        let reason = "no trained parameter is a `lora_B`; train a LoRA, or leave it out".to_owned();
        return Err(Error::Config { key: "lora_plus_ratio", reason });
    }
    for (rule, spec) in rules.iter_mut().zip(parameters.specs()) {
        let group =
            groups.iter().find(|group| group.parameters.iter().any(|pattern| fits(pattern, &spec.name)));
        if let Some(group) = group {
            rule.factor = group.learning_rate_factor;
            rule.weight_decay = group.weight_decay.unwrap_or(rule.weight_decay);
        } else if let Some(ratio) = ratio
            && (is_b(&spec.name) || spec.shape.len() == 1)
        {
            rule.factor = ratio;
        }
    }
    Ok(())
}

fn is_b(name: &str) -> bool {
    name.contains("lora_B")
}

/// Whether a name is what a pattern says, in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name) in [
            ("*", ""),
            ("*bias*", "attn.bias"),
            ("h.*.weight", "h.0.ln.weight"),
            ("*.lora_B.weight", "a.b.lora_B.weight"),
            ("a*a", "abba"),
            ("x", "x"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("x", "xx"), ("a*a", "a"), ("*.bias", "bias"), ("", "a"), ("h.*.w", "g.0.w")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
