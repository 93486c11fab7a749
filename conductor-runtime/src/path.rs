//! Paths within a JSON text, for error messages.

/// The most characters of a field's name that are shown.
const SHOWN: usize = 100;

/// An object or an array that is open at a position.
enum Open<'j> {
    /// With the last name, while its value is open.
    Object(Option<&'j str>),
    /// With the index of the current element.
    Array(usize),
}

/// Prefixes `words` with the path of the value at the end of a partial JSON text: `order.items[2].note: …`.
pub(crate) fn told_at_end(json: &str, words: &str) -> String {
    let mut path = String::new();
    for open in open_at_end(json) {
        match open {
            Open::Object(None) => {}
            Open::Object(Some(name)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.extend(name.chars().take(SHOWN));
            }
            Open::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    if path.is_empty() {
        return words.to_owned();
    }
    format!("{path}: {words}")
}

fn open_at_end(json: &str) -> Vec<Open<'_>> {
    let mut open = Vec::new();
    let mut at = 0;
    while let Some(byte) = json.as_bytes().get(at) {
        at += 1;
        match byte {
            b'{' => open.push(Open::Object(None)),
            b'[' => open.push(Open::Array(0)),
            b'}' | b']' => {
                open.pop();
            }
            b',' => match open.last_mut() {
                Some(Open::Object(name)) => *name = None,
                Some(Open::Array(index)) => *index += 1,
                None => {}
            },
            b'"' => {
                let Some(length) = string(&json.as_bytes()[at..]) else {
                    break;
                };
                if let Some(Open::Object(name @ None)) = open.last_mut() {
                    *name = json.get(at..at + length);
                }
                at += length + 1;
            }
            _ => {}
        }
    }
    open
}

/// Returns the length of a string after its opening quote; `None` if it does not end.
fn string(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::told_at_end;

    #[test]
    fn the_path_of_the_end() {
        for (json, path) in [
            ("", ""),
            ("{", ""),
            ("[", "[0]: "),
            (r#"{"a":"#, "a: "),
            (r#"{"a":1,"b":{"c":["#, "b.c[0]: "),
            (r#"{"a":{"b":[1,{"c":2},"#, "a.b[2]: "),
            (r#"{"a":"{[,\"","b":[[],[1,"x"#, "b[1][1]: "),
            (r#"{"a":{"b":1},"#, ""),
            (r#"{"a":{"b":1}"#, "a: "),
            (r#"{"a":{"b\"c":{"#, r#"a.b\"c: "#),
            (r#"{"a":{"b\"#, "a: "),
            (r#"{"größe":"#, "größe: "),
            (r#"{"a":[1]}"#, ""),
        ] {
            assert_eq!(told_at_end(json, "!"), format!("{path}!"), "{json}");
        }
        let long = "x".repeat(1000);
        let text = told_at_end(&format!(r#"{{"{long}":"#), "!");
        assert_eq!(text, format!("{}: !", &long[..100]));
    }
}
