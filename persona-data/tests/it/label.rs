//! Labels for replies.

use persona_data::{
    Dialogue, Error, Format, Labeller, OverlapLabeller, Result, Speaker, Turn, label_dialogues, open,
};

use crate::fixture;

fn persona_chat() -> Vec<Dialogue> {
    open(fixture("personachat_self_original.txt"), Format::Parlai).unwrap().map(|d| d.unwrap()).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn shared_words_show_the_description() {
    let labeller = OverlapLabeller::fit(&persona_chat()).unwrap();
    let persona = strings(&[
        "i have two dogs.",
        "i like to work on vintage cars.",
        "my favorite music is country.",
        "i am tall.",
    ]);
    for (response, want) in [
        ("my dog is asleep .", vec![0]),
        ("i worked on the car all day .", vec![1]),
        ("country songs for my dogs", vec![0, 2]),
        ("hello , how are you doing ?", vec![]),
        ("I HAVE TWO DOGS!", vec![0]),
        ("", vec![]),
    ] {
        let mut label = labeller.label(&persona, response).unwrap();
        label.sort_unstable();
        assert_eq!(label, want, "{response:?}");
    }
    assert_eq!(labeller.label(&[], "dogs").unwrap(), [] as [usize; 0]);
}

#[test]
fn the_best_comes_first_and_scores_are_cosines() {
    let labeller = OverlapLabeller::fit(&persona_chat()).unwrap();
    let persona =
        strings(&["i work at home.", "i work on vintage cars.", "i sail.", "my vintage cars work."]);
    assert_eq!(labeller.label(&persona, "i work on vintage cars .").unwrap(), [1, 3, 0]);
    let scores = labeller.scores(&persona, "i work on vintage cars .");
    // Word order and words without a topic play no part.
    assert!((scores[1] - 1.0).abs() < 1e-12 && (scores[3] - 1.0).abs() < 1e-12, "{scores:?}");
    assert_eq!(scores[2], 0.0);
}

#[test]
fn a_cosine_by_hand() {
    // Three texts; "tea" in two of them, "cup" and "pot" in one each.
    let mut dialogue =
        Dialogue { id: "d".into(), personas: [Vec::new(), strings(&["tea cup"])], turns: Vec::new() };
    dialogue.turns = vec![Turn::new(Speaker::One, "tea pot"), Turn::new(Speaker::Two, "the")];
    let labeller = OverlapLabeller::fit(&[dialogue]).unwrap();
    let weight = |containing: f64| 1.0 + (4.0 / (1.0 + containing)).ln();
    let (tea, cup, pot) = (weight(2.0), weight(1.0), weight(1.0));
    let want = tea * tea / ((tea * tea + cup * cup).sqrt() * (tea * tea + pot * pot).sqrt());
    let got = labeller.scores(&strings(&["tea cup"]), "tea pot")[0];
    assert!((got - want).abs() < 1e-12, "{got} {want}");
}

#[test]
fn text_without_spaces_is_labelled() {
    let dialogues: Vec<Dialogue> =
        open(fixture("xpersona_zh.json"), Format::Xpersona).unwrap().map(|d| d.unwrap()).collect();
    let labeller = OverlapLabeller::fit(&dialogues).unwrap();
    let persona = dialogues[0].persona(Speaker::Two);
    assert_eq!(labeller.label(persona, "我很好 。和我的两只狗一起放松。").unwrap().first(), Some(&0));
    assert_eq!(labeller.label(persona, "ok!").unwrap(), [] as [usize; 0]);
    let dialogues: Vec<Dialogue> =
        open(fixture("xpersona_jp.json"), Format::Xpersona).unwrap().map(|d| d.unwrap()).collect();
    let labeller = OverlapLabeller::fit(&dialogues).unwrap();
    for description in dialogues[0].persona(Speaker::Two) {
        assert!(!labeller.label(std::slice::from_ref(description), description).unwrap().is_empty());
    }
}

#[test]
fn nothing_to_learn_from_is_an_error() {
    assert!(matches!(OverlapLabeller::fit(&[]), Err(Error::NoText)));
    let mut dialogue = persona_chat().remove(0);
    dialogue.personas = Default::default();
    dialogue.turns = vec![Turn::new(Speaker::One, "...")];
    assert!(matches!(OverlapLabeller::fit(&[dialogue]), Err(Error::NoText)));
}

#[test]
fn labels_that_are_there_stay() {
    let mut dialogues = persona_chat();
    dialogues[0].turns[1].relevant = Some(vec![3, 2]);
    let labeller = OverlapLabeller::fit(&dialogues).unwrap();
    let report = label_dialogues(&mut dialogues, &labeller).unwrap();
    assert_eq!(dialogues[0].turns[1].relevant, Some(vec![3, 2]));
    // The first speakers have no persona: their turns stay unlabelled.
    assert!(dialogues[0].turns.iter().step_by(2).all(|turn| turn.relevant.is_none()));
    assert_eq!((report.labelled, report.kept, report.without_persona), (21, 1, 22));
    let of = |wanted: fn(usize) -> bool| {
        let relevant = dialogues.iter().flat_map(|d| &d.turns).filter_map(|turn| turn.relevant.as_ref());
        relevant.filter(|relevant| wanted(relevant.len())).count()
    };
    assert_eq!(report.none, of(|count| count == 0));
    assert_eq!(report.several, of(|count| count > 1) - 1);
    assert!((report.none_share() - report.none as f64 / 21.0).abs() < 1e-12);
    // A second time there is nothing left to do.
    let again = label_dialogues(&mut dialogues, &labeller).unwrap();
    assert_eq!((again.labelled, again.kept, again.none_share()), (0, 22, 0.0));
}

#[test]
fn a_labeller_that_fails_leaves_the_dialogues_unchanged() {
    struct Beyond;
    impl Labeller for Beyond {
        fn label(&self, persona: &[String], response: &str) -> Result<Vec<usize>> {
            Ok(if response.starts_with("i rather read") { vec![0, persona.len()] } else { vec![0] })
        }
    }
    let mut dialogues = persona_chat();
    let error = label_dialogues(&mut dialogues, &Beyond).unwrap_err().to_string();
    assert!(error.starts_with("turn 3 of dialogue \"personachat_self_original-00001\""), "{error}");
    assert_eq!(dialogues, persona_chat());
}
