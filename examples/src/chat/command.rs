//! What a line that begins with `/` asks for.

/// A command of the chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'t> {
    /// Show the persona and the shipped ones, or take another.
    Persona(&'t str),
    /// Forget the dialogue.
    Reset,
    /// Write the dialogue to a file.
    Save(&'t str),
    /// Say what there is.
    Help,
    /// End.
    Quit,
}

/// What `/help` shows.
pub(super) const HELP: &str = "\
/persona               the persona, and those that ship
/persona 2             a shipped one; the dialogue begins anew
/persona FILE          one description a line
/persona I ski. | ...  descriptions with | between them
/reset                 forget the dialogue
/save FILE             write the dialogue as JSON
/quit                  end (or end of input)";

impl<'t> Command<'t> {
    /// The command of a line; nothing for a line that is to be answered.
    ///
    /// # Errors
    /// What to do instead of a command that there is not, or that lacks something.
    pub fn of(line: &'t str) -> Option<Result<Self, String>> {
        let rest = line.strip_prefix('/')?;
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        let alone = |command| match argument {
            "" => Ok(command),
            _ => Err(format!("/{name} takes nothing after it")),
        };
        Some(match name {
            "persona" => Ok(Self::Persona(argument)),
            "reset" => alone(Self::Reset),
            "save" if argument.is_empty() => Err("/save needs a file: /save dialogue.json".to_owned()),
            "save" => Ok(Self::Save(argument)),
            "help" => alone(Self::Help),
            "quit" => alone(Self::Quit),
            _ => Err(format!("there is no /{name}; /help lists what there is")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_is_none() {
        assert_eq!(Command::of("hello /quit"), None);
        assert_eq!(
            Command::of("/persona  I ski. | I read. "),
            Some(Ok(Command::Persona("I ski. | I read.")))
        );
        assert_eq!(Command::of("/save a b.json"), Some(Ok(Command::Save("a b.json"))));
        assert_eq!(Command::of("/quit"), Some(Ok(Command::Quit)));
        for bad in ["/", "/foo", "/save", "/reset now", "/Quit"] {
            let message = Command::of(bad).unwrap().unwrap_err();
            assert!(message.contains('/'), "{message}");
        }
    }
}
