//! ConvAI2's 7,801 validation replies against a plain Python reading of the definitions (`real_data.py`), and the same
//! bits for every number of threads. Read from the folder `PERSONA_DATA_DIR` names, passed over where it is not set.

use std::path::PathBuf;
use std::{env, fs};

use approx::assert_relative_eq;
use persona_metrics::{Bleu, CopyRate, Distinct, Entropy, PreTokenization, Rouge};
use rayon::ThreadPoolBuilder;

struct Corpus {
    utterances: Vec<String>,
    replies: Vec<String>,
    personas: Vec<Vec<String>>,
}

fn corpus() -> Option<Corpus> {
    let Some(folder) = env::var_os("PERSONA_DATA_DIR") else {
        println!("passed over: PERSONA_DATA_DIR is not set");
        return None;
    };
    let path = PathBuf::from(folder).join("personachat_en/valid_self_original_no_cands.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut corpus = Corpus { utterances: vec![], replies: vec![], personas: vec![] };
    let mut persona = vec![];
    for line in text.lines() {
        let (number, line) = line.split_once(' ').unwrap();
        if number == "1" {
            persona.clear();
        }
        if let Some(description) = line.strip_prefix("your persona: ") {
            persona.push(description.to_owned());
        } else {
            let (utterance, reply) = line.split_once('\t').unwrap();
            corpus.utterances.push(utterance.to_owned());
            corpus.replies.push(reply.to_owned());
            corpus.personas.push(persona.clone());
        }
    }
    assert_eq!(corpus.replies.len(), 7801);
    Some(corpus)
}

fn assert_near(values: &[f64], expected: &[f64]) {
    assert_eq!(values.len(), expected.len());
    for (&value, &expected) in values.iter().zip(expected) {
        assert_relative_eq!(value, expected, max_relative = 1e-11);
    }
}

#[test]
fn personachat_values() {
    let Some(Corpus { utterances, replies, personas }) = corpus() else { return };
    let bleu = Bleu::pycocoevalcap();
    let standard = bleu.corpus(&utterances, &replies).unwrap();
    println!("{standard}");
    assert_near(
        &standard.values(),
        &[0.1666278972853503, 0.0639429472179707, 0.029522775006936994, 0.014253744065329255],
    );
    assert_near(
        &bleu.swapped(true).corpus(&utterances, &replies).unwrap().values(),
        &[0.16668826820469437, 0.06388614452356445, 0.029454612135048068, 0.01419754666554927],
    );
    let spaced = bleu.lowercase(true).pre_tokenization(PreTokenization::SpacePunctuation);
    assert_near(
        &spaced.corpus(&utterances, &replies).unwrap().values(),
        &[0.17364740096842193, 0.07191212661938129, 0.03629612230750195, 0.01798466994337253],
    );

    let rouge = Rouge::pycocoevalcap();
    let standard = rouge.corpus(&utterances, &replies).unwrap();
    println!("{standard}");
    let swapped = rouge.swapped(true).corpus(&utterances, &replies).unwrap();
    assert_near(&[standard.values()[0], swapped.values()[0]], &[0.14097245708990613, 0.14206591806042163]);

    let entropy = Entropy::pal().corpus(&replies).unwrap();
    println!("{entropy}");
    assert_near(
        &entropy.values(),
        &[5.733488779749304, 8.976306974106002, 10.326664613569614, 10.821704678163167],
    );
    assert_near(
        &Entropy::dialogpt().corpus(&replies).unwrap().values(),
        &[5.792225668750328, 9.122514161934674, 10.460756833827547, 10.863197815444128],
    );

    let distinct = Distinct::li().corpus(&replies).unwrap();
    println!("{distinct}");
    assert_near(&distinct.values(), &[0.05414425507096105, 0.3643097245975114]);
    assert_near(
        &Distinct::pal().corpus(&replies).unwrap().values(),
        &[0.0518853225303833, 0.31843772722551156],
    );

    let copied = CopyRate::default().corpus(&replies, &personas).unwrap();
    println!("{copied}");
    assert_eq!(copied.values(), [20.0 / 7801.0]);
}

#[test]
fn personachat_values_do_not_depend_on_threads() {
    let Some(Corpus { utterances, replies, personas }) = corpus() else { return };
    let values = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut values = Bleu::pycocoevalcap().corpus(&utterances, &replies).unwrap().values();
            values.extend(Rouge::pycocoevalcap().corpus(&utterances, &replies).unwrap().values());
            values.extend(Entropy::pal().corpus(&replies).unwrap().values());
            values.extend(Distinct::li().corpus(&replies).unwrap().values());
            values.extend(CopyRate::default().corpus(&replies, &personas).unwrap().values());
            values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
        })
    };
    let one = values(1);
    assert_eq!(values(2), one);
    assert_eq!(values(7), one);
}
