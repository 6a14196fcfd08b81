//! ConvAI2's 7,801 validation replies against a plain Python reading of the definitions (`real_data.py`), and the same
//! bits for every number of threads. Read from the folder `PERSONA_DATA_DIR` names, passed over where it is not set.

use std::path::PathBuf;
use std::{env, fs};

use approx::assert_relative_eq;
use persona_metrics::{Bleu, CopyRate, Distinct, Entropy, PreTokenization, Rouge, RougeType};
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

/// What the packages themselves give for ROUGE (rouge_score 0.1.2, rouge 1.0.1, rouge-chinese 1.0.3, py-rouge 1.1).
#[test]
fn personachat_rouge_of_the_packages() {
    let Some(Corpus { utterances, replies, .. }) = corpus() else { return };
    let google = Rouge::google().corpus(&utterances, &replies).unwrap();
    println!("{google}");
    let expected = [
        [0.15347281308443486, 0.1471140133633141, 0.1433609154403323],
        [0.030488374162733395, 0.027431962676689986, 0.02725492088975099],
        [0.1361613582660256, 0.130382203359397, 0.12696596690068576],
    ];
    assert_near(&google.values(), &expected.concat());
    let expected = [
        [0.16070861204178918, 0.15435765000806453, 0.1502391872721592],
        [0.032012790686829454, 0.028771640176475165, 0.028584654486307877],
        [0.14169290951503727, 0.13587073690739868, 0.13218920121989855],
    ];
    let stemmed = Rouge::google().use_stemmer(true).corpus(&utterances, &replies).unwrap();
    assert_near(&stemmed.values(), &expected.concat());
    let expected = [
        [0.15755418602532079, 0.15175913903420823, 0.14826813417913307],
        [0.026863144341930687, 0.02463965323618951, 0.024328469596650668],
        [0.1450267523804619, 0.13924363261564196, 0.13618629443103017],
    ];
    assert_near(&Rouge::pltrdy().corpus(&utterances, &replies).unwrap().values(), &expected.concat());
    let expected = [
        [0.17920556650962646, 0.17242728676524582, 0.16873859364038005],
        [0.027929274123498677, 0.025460440381410935, 0.02520750807516819],
        [0.15164569988245952, 0.14478020027573274, 0.14132232625973884],
    ];
    assert_near(&Rouge::chinese().corpus(&utterances, &replies).unwrap().values(), &expected.concat());
    let expected = [
        [0.153441894445325, 0.14709198701811646, 0.14333297705968878],
        [0.03049238815213387, 0.027441424223133972, 0.027260572169045396],
        [0.17629086592212, 0.17039853973434257, 0.16756725374054796],
        [0.12892024042304395, 0.07882947887142223, 0.0925277602674457],
    ];
    let py_rouge = Rouge::py_rouge().weight_factor(1.2).unwrap();
    let py_rouge = py_rouge.types([RougeType::N(1), RougeType::N(2), RougeType::L, RougeType::W]).unwrap();
    assert_near(&py_rouge.corpus(&utterances, &replies).unwrap().values(), &expected.concat());
}

#[test]
fn personachat_values_do_not_depend_on_threads() {
    let Some(Corpus { utterances, replies, personas }) = corpus() else { return };
    let values = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut values = Bleu::pycocoevalcap().corpus(&utterances, &replies).unwrap().values();
            values.extend(Rouge::pycocoevalcap().corpus(&utterances, &replies).unwrap().values());
            values.extend(Rouge::google().corpus(&utterances, &replies).unwrap().values());
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
