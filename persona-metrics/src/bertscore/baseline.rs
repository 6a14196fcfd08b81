//! Baselines that scores are rescaled by.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What unrelated sentences score with one layer of one model. A score x becomes `(x - b) / (1 - b)`, so that the
/// baseline b itself is 0 and 1 stays 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    layer: usize,
    /// Of precision, recall, F1.
    values: [f64; 3],
}

impl Baseline {
    /// Reads the row of a layer from a file in bert-score's format: a header `LAYER,P,R,F` and a line a layer, from 0.
    ///
    /// # Errors
    /// A file that is missing or has another form, no row of that layer, a value of 1 or more.
    pub fn read(path: impl AsRef<Path>, layer: usize) -> Result<Self> {
        let path = path.as_ref();
        let fail = |problem: String| Error::Baseline { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| {
            fail(format!(
                "{error}; rescaling needs the model's baselines: bert-score has them as \
                 rescale_baseline/LANGUAGE/MODEL.tsv, or score without rescaling"
            ))
        })?;
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        let header = lines.next().unwrap_or_default();
        if !header.split(',').map(str::trim).eq(["LAYER", "P", "R", "F"]) {
            return Err(fail(format!("the header is {header:?}; bert-score's files have LAYER,P,R,F")));
        }
        let mut layers = 0;
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = || fail(format!("line {}: {line:?} is no layer with three values", number + 2));
            let mut cells = line.split(',').map(str::trim);
            let row: usize = cells.next().and_then(|cell| cell.parse().ok()).ok_or_else(wrong)?;
            let values: Vec<f64> = cells.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
            layers += 1;
            if row == layer {
                let values = <[f64; 3]>::try_from(values).map_err(|_| wrong())?;
                if values.iter().any(|value| !value.is_finite() || *value >= 1.0) {
                    return Err(wrong());
                }
                return Ok(Self { layer, values });
            }
        }
        Err(fail(format!("no row of layer {layer} among {layers}; is this the file of another model?")))
    }

    /// The layer that the baselines belong to.
    #[must_use]
    pub fn layer(&self) -> usize {
        self.layer
    }

    pub(super) fn rescale(&self, scores: [f64; 3]) -> [f64; 3] {
        let [p, r, f] = self.values;
        let [precision, recall, f1] = scores;
        [(precision - p) / (1.0 - p), (recall - r) / (1.0 - r), (f1 - f) / (1.0 - f)]
    }

    pub(super) fn signature(&self) -> String {
        let [p, r, f] = self.values;
        format!("{p}/{r}/{f}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_by_its_layer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.tsv");
        std::fs::write(&path, "LAYER,P,R,F\r\n0,0.1,0.2,0.3\r\n1,0.5,0.25,0\r\n").unwrap();
        let baseline = Baseline::read(&path, 1).unwrap();
        assert_eq!(baseline.rescale([0.75, 0.25, 0.5]), [0.5, 0.0, 0.5]);
        assert_eq!((baseline.layer(), baseline.signature().as_str()), (1, "0.5/0.25/0"));
    }

    #[test]
    fn files_that_do_not_serve_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.tsv");
        let missing = Baseline::read(&path, 1).unwrap_err().to_string();
        assert!(missing.contains("model.tsv") && missing.contains("rescale_baseline/LANGUAGE/MODEL.tsv"));
        for (text, expected) in [
            ("", "the header is \"\""),
            ("LAYER,P,R\n0,1,1\n", "LAYER,P,R,F"),
            ("LAYER,P,R,F\n0,0.1,0.1,0.1\n", "no row of layer 1 among 1"),
            ("LAYER,P,R,F\n1,0.1,x,0.1\n", "line 2"),
            ("LAYER,P,R,F\n1,0.1,0.1\n", "line 2"),
            ("LAYER,P,R,F\n1,0.1,NaN,0.1\n", "line 2"),
            ("LAYER,P,R,F\n1,0.1,1,0.1\n", "line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Baseline::read(&path, 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
