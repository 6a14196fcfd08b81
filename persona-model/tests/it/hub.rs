//! Checkpoints by repository id, from a server of these tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use persona_model::{Gpt2, Hub, Model, load_causal_lm};
use tch::{Device, Kind};

/// Answers as the Hub does for one repository, `owner/tiny`, and remembers what it was asked for.
struct Server {
    address: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = Arc::new(Mutex::new(files));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (served, seen) = (files.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no failure of the test.
                let _ = answer(stream, &served.lock().unwrap(), &mut seen.lock().unwrap());
            }
        });
        Self { address, files, asked }
    }

    fn asked_for(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    asked: &mut Vec<String>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut start = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap();
            start = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        }
    }
    asked.push(path.clone());
    let known = |branch: &str| path == format!("/api/models/owner/tiny/revision/{branch}");
    let (status, headers, body) = if known("main") || known(COMMIT) {
        let files: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        (
            "200 OK",
            String::new(),
            format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", files.join(", ")).into(),
        )
    } else if let Some(file) =
        path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/")).and_then(|name| files.get(name))
    {
        let (from, to) = start.unwrap_or((0, None));
        let end = to.map_or(file.len(), |to| to + 1).min(file.len());
        let from = from.min(end);
        let headers = format!(
            "etag: \"{:x}-{}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {from}-{}/{}\r\n",
            file.iter().fold(7_u64, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into())),
            file.len(),
            end.saturating_sub(1),
            file.len()
        );
        ("206 Partial Content", headers, file[from..end].to_vec())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n")?;
    stream.write_all(&body)
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn a_model_is_fetched_once_and_then_found_offline() {
    let saved = tempfile::tempdir().unwrap();
    let model = crate::tiny();
    model.save(saved.path()).unwrap();
    let mut files = files_of(saved.path());
    files.insert("README.md".into(), b"not needed".to_vec());
    files.insert("pytorch_model.bin".into(), b"not read".to_vec());
    let server = Server::start(files);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).endpoint(&server.address);

    let folder = hub.model("owner/tiny").unwrap();
    assert!(folder.ends_with(format!("models--owner--tiny/snapshots/{COMMIT}")), "{}", folder.display());
    let (loaded, report) = Gpt2::load(&folder, Device::Cpu, Kind::Float).unwrap();
    assert!(report.is_exact());
    assert_eq!(loaded.parameters().flat(), model.parameters().flat());
    assert_eq!((server.asked_for("README.md"), server.asked_for("pytorch_model")), (0, 0));

    let before = server.asked_for("resolve");
    assert_eq!(hub.model("owner/tiny").unwrap(), folder, "the cache holds it");
    assert_eq!(server.asked_for("resolve"), before);

    let offline = Hub::at(cache.path()).offline(true);
    for revision in ["main", COMMIT] {
        assert_eq!(offline.revision("owner/tiny", revision).unwrap(), folder);
    }
    for (id, revision) in [("owner/other", "main"), ("owner/tiny", "v2")] {
        let error = offline.revision(id, revision).unwrap_err().to_string();
        assert!(error.contains("HF_HUB_OFFLINE") && error.contains(id), "{error}");
    }
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let error = offline.model("owner/tiny").unwrap_err().to_string();
    assert!(error.contains("model.safetensors is not in"), "{error}");
}

#[test]
fn shards_are_fetched_by_their_index() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/parity/cases/causal_lm_llama_tied_bf16_sharded/model");
    let server = Server::start(files_of(&case));
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).endpoint(&server.address);
    let folder = hub.model("owner/tiny").unwrap();
    let (_, report) = load_causal_lm(&folder, Device::Cpu, Kind::Float).unwrap();
    assert!(report.is_exact());
    let offline = Hub::at(cache.path()).offline(true);
    assert_eq!(offline.model("owner/tiny").unwrap(), folder);
    std::fs::remove_file(folder.join("model-00002-of-00003.safetensors")).unwrap();
    let error = offline.model("owner/tiny").unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00003.safetensors is not in"), "{error}");
    assert_eq!(hub.model("owner/tiny").unwrap(), folder, "what is missing is fetched again");
    assert_eq!(offline.model("owner/tiny").unwrap(), folder);
}

#[test]
fn what_cannot_be_had_says_what_to_do() {
    let server = Server::start(BTreeMap::from([("pytorch_model.bin".into(), vec![1])]));
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).endpoint(&server.address);
    let error = |id: &str| hub.model(id).unwrap_err().to_string();
    assert!(error("owner/tiny").contains("convert them to safetensors"));
    assert!(error("owner/nothing").contains("HF_ENDPOINT"), "{}", error("owner/nothing"));
    assert!(error("no/such/folder").contains("owner/name"));
    // An index that names a path is not followed.
    let index = br#"{"weight_map": {"a": "../../evil.safetensors"}}"#.to_vec();
    *server.files.lock().unwrap() = BTreeMap::from([("model.safetensors.index.json".into(), index)]);
    assert!(error("owner/tiny").contains("is a path"));
    let saved = tempfile::tempdir().unwrap();
    assert_eq!(hub.model(saved.path().to_str().unwrap()).unwrap(), saved.path(), "a folder is itself");
}
