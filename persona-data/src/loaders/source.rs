//! Bytes of a file: opening, decompression, byte order marks, lines with their numbers, files written whole or not at all.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::error::{Error, Place, Result};

/// Any source of bytes that a loader can read on a thread of its own.
pub(crate) type Bytes = Box<dyn BufRead + Send>;

const BUFFER: usize = 1 << 16;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A file's bytes under the name that errors give it.
pub(crate) struct Source {
    pub(crate) bytes: Bytes,
    pub(crate) name: String,
}

impl Source {
    /// Opens a file; see [`Source::new`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Opening a directory succeeds on Unix; the first read would then fail with a less helpful place.
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Self::new(BufReader::with_capacity(BUFFER, file), path.display().to_string())
    }

    /// Takes bytes from anywhere: decompresses them when they start as gzip does, takes off a UTF-8 byte order mark, and
    /// refuses UTF-16.
    pub(crate) fn new(bytes: impl BufRead + Send + 'static, name: String) -> Result<Self> {
        let at_start = |source| read_error(source, Place { file: name.clone(), line: 1, record: None });
        let (start, rest) = peel(Box::new(bytes)).map_err(at_start)?;
        let (start, rest) = if start.starts_with(&GZIP) {
            let whole = Cursor::new(start).chain(rest);
            let plain = BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole));
            peel(Box::new(plain)).map_err(at_start)?
        } else {
            (start, rest)
        };
        if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
            return Err(Error::Utf16 { file: name });
        }
        let bytes: Bytes = if start == UTF8_MARK { rest } else { Box::new(Cursor::new(start).chain(rest)) };
        Ok(Self { bytes, name })
    }

    /// What the ids of the dialogues of this file begin with: the file's name without folders and extensions.
    pub(crate) fn stem(&self) -> String {
        let name = Path::new(&self.name)
            .file_name()
            .map_or_else(|| self.name.clone(), |n| n.to_string_lossy().into());
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
    }
}

/// The first three bytes (fewer in a shorter file) and what follows them.
fn peel(mut bytes: Bytes) -> io::Result<(Vec<u8>, Bytes)> {
    let mut start = Vec::with_capacity(UTF8_MARK.len());
    bytes.by_ref().take(UTF8_MARK.len() as u64).read_to_end(&mut start)?;
    Ok((start, bytes))
}

/// The error for bytes that could not be read.
pub(crate) fn read_error(source: io::Error, place: Place) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        Error::TruncatedGzip { place }
    } else {
        Error::Read { place, source }
    }
}

/// The lines of a source, numbered from 1, without their ends (LF or CR LF).
pub(crate) struct Lines {
    bytes: Bytes,
    name: String,
    number: u64,
    line: Vec<u8>,
    done: bool,
}

impl Lines {
    pub(crate) fn new(source: Source) -> Self {
        Self { bytes: source.bytes, name: source.name, number: 0, line: Vec::new(), done: false }
    }

    /// The line that was read last.
    pub(crate) fn place(&self) -> Place {
        Place { file: self.name.clone(), line: self.number, record: None }
    }

    /// The bytes of the line that was read last, or of as much of it as could be read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// The next line; `None` at the end, and after an error of reading. A line that is not UTF-8 is an error of its own,
    /// and the lines after it can be read.
    pub(crate) fn next(&mut self) -> Option<Result<&str>> {
        if self.done {
            return None;
        }
        self.line.clear();
        self.number += 1;
        match self.bytes.read_until(b'\n', &mut self.line) {
            Ok(0) => {
                self.done = true;
                None
            }
            Ok(_) => {
                if self.line.last() == Some(&b'\n') {
                    self.line.pop();
                    if self.line.last() == Some(&b'\r') {
                        self.line.pop();
                    }
                }
                let place = || Place { file: self.name.clone(), line: self.number, record: None };
                Some(
                    str::from_utf8(&self.line)
                        .map_err(|broken| Error::NotUtf8 { place: place(), byte: broken.valid_up_to() + 1 }),
                )
            }
            Err(source) => {
                self.done = true;
                Some(Err(read_error(source, self.place())))
            }
        }
    }
}

/// Writes a file under another name beside its place and renames it when all is written: `path` holds either what it held
/// before or the whole new content. Compressed when the name ends in `.gz`.
pub(crate) fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Part(path.with_file_name(name));
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER, File::create(&part.0)?);
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut packed = GzEncoder::new(out, Compression::default());
            fill(&mut packed)?;
            out = packed.finish()?;
        } else {
            fill(&mut out)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part.0, path)
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// A file in the making, taken away when it goes out of scope; after the renaming there is nothing left to take away.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Nobody to report to, and a file left behind harms nothing: the next attempt overwrites it.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<std::result::Result<String, String>> {
        let source = Source::new(Cursor::new(bytes.to_vec()), "some/dir/name.txt.gz".into()).unwrap();
        assert_eq!(source.stem(), "name");
        let mut lines = Lines::new(source);
        let mut all = Vec::new();
        while let Some(line) = lines.next() {
            all.push(line.map(str::to_owned).map_err(|e| e.to_string()));
        }
        all
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn line_ends_marks_and_compression_leave_the_same_lines() {
        let plain = vec![Ok("a".to_owned()), Ok("b".to_owned())];
        for text in ["a\nb", "a\nb\n", "a\r\nb\r\n", "\u{feff}a\nb\n"] {
            assert_eq!(lines(text.as_bytes()), plain, "{text:?}");
            assert_eq!(lines(&gzip(text.as_bytes())), plain, "{text:?}, compressed");
        }
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"a"), [Ok("a".to_owned())]);
        // Several compressed files set end to end are one.
        let both = [gzip(b"a\n"), gzip(b"b\n")].concat();
        assert_eq!(lines(&both), plain);
    }

    #[test]
    fn a_broken_line_names_its_place_and_the_next_is_read() {
        let got = lines(b"fine\nbad \xff\nfine again\n");
        assert_eq!(got.len(), 3);
        assert!(
            got[1].as_ref().unwrap_err().starts_with("some/dir/name.txt.gz:2: byte 5 of the line"),
            "{:?}",
            got[1]
        );
        assert_eq!(got[2], Ok("fine again".into()));
    }

    #[test]
    fn a_cut_gzip_stream_ends_with_an_error() {
        let mut packed = gzip("line after line\n".repeat(1000).as_bytes());
        packed.truncate(packed.len() - 6);
        let got = lines(&packed);
        assert!(got.last().unwrap().as_ref().unwrap_err().contains("ends too early"), "{:?}", got.last());
    }

    #[test]
    fn utf_16_is_refused_by_name() {
        let error = Source::new(Cursor::new(b"\xff\xfe1\0 \0".to_vec()), "f".into()).err().unwrap();
        assert!(matches!(error, Error::Utf16 { .. }), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept.jsonl");
        std::fs::write(&path, "old").unwrap();
        let error = write_whole(&path, |out| {
            out.write_all(b"half of the n")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(error, Err(Error::Write { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_whole(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert!(write_whole(&dir.path().join("no/such/folder/f"), |_| Ok(())).is_err());
    }
}
