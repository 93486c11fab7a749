//! Reads from a JSON Schema what the command line needs to parse and describe values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Number, Value};

/// The maximum depth of references, which ends circular ones.
const MAX_DEPTH: usize = 32;

/// One kind of value that a schema accepts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Want {
    Any,
    Null,
    Boolean,
    Integer(Bounds),
    Number(Bounds),
    /// A string, with its format if the schema names one.
    Text(Option<String>),
    /// One of a set of values.
    Choice(Value),
    Array,
    Object,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Bounds {
    min: Option<Number>,
    max: Option<Number>,
}

/// The fields of an object.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) known: BTreeMap<String, Vec<Want>>,
    pub(crate) required: BTreeSet<String>,
    /// The kinds of values accepted for fields of other names, if such fields are accepted.
    pub(crate) others: Option<Vec<Want>>,
}

/// Returns the kinds of values that a schema accepts.
pub(crate) fn wants(root: &Value) -> Vec<Want> {
    let mut found = Vec::new();
    gather(root, root, 0, &mut found);
    found
}

/// Returns the fields if the schema accepts an object.
pub(crate) fn fields(root: &Value) -> Option<Fields> {
    fields_of(root, root, 0)
}

fn gather(root: &Value, at: &Value, depth: usize, found: &mut Vec<Want>) {
    let mut add = |want| {
        if !found.contains(&want) {
            found.push(want);
        }
    };
    let Some(keys) = at.as_object().filter(|_| depth < MAX_DEPTH) else {
        if at != &Value::Bool(false) {
            add(Want::Any);
        }
        return;
    };
    if let Some(value) = keys.get("const") {
        add(Want::Choice(value.clone()));
        return;
    }
    if let Some(values) = keys.get("enum").and_then(Value::as_array) {
        values
            .iter()
            .for_each(|value| add(Want::Choice(value.clone())));
        return;
    }
    let types: Vec<&str> = match keys.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ if keys.contains_key("properties") => vec!["object"],
        _ => Vec::new(),
    };
    for name in &types {
        let bounds = || Bounds {
            min: number(keys.get("minimum")),
            max: number(keys.get("maximum")),
        };
        add(match *name {
            "null" => Want::Null,
            "boolean" => Want::Boolean,
            "integer" => Want::Integer(bounds()),
            "number" => Want::Number(bounds()),
            "string" => Want::Text(
                keys.get("format")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            ),
            "array" => Want::Array,
            "object" => Want::Object,
            _ => Want::Any,
        });
    }
    let mut nested = false;
    for inner in references(root, at).chain(branches(at, &["anyOf", "oneOf", "allOf"])) {
        nested = true;
        gather(root, inner, depth + 1, found);
    }
    if types.is_empty() && !nested {
        found.push(Want::Any);
    }
}

fn fields_of(root: &Value, at: &Value, depth: usize) -> Option<Fields> {
    if depth >= MAX_DEPTH {
        return None;
    }
    let Some(keys) = at.as_object() else {
        return (at == &Value::Bool(true)).then(Fields::open);
    };
    let mut alone = Vec::new();
    gather(root, at, depth, &mut alone);
    if alone == [Want::Any] {
        return Some(Fields::open());
    }
    let typed = match keys.get("type") {
        Some(Value::String(one)) => one == "object",
        Some(Value::Array(several)) => several.iter().any(|name| name == "object"),
        _ => false,
    };
    let mut all = Fields::default();
    let mut is_object = typed || keys.contains_key("properties");
    for (name, schema) in keys
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let mut wants = Vec::new();
        gather(root, schema, depth + 1, &mut wants);
        all.known.insert(name.clone(), wants);
    }
    let required = keys
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    all.required
        .extend(required.filter_map(Value::as_str).map(str::to_owned));
    if let Some(others) = keys
        .get("additionalProperties")
        .filter(|schema| *schema != &Value::Bool(false))
    {
        let mut wants = Vec::new();
        gather(root, others, depth + 1, &mut wants);
        all.others = Some(wants);
    }
    for part in references(root, at).chain(branches(at, &["allOf"])) {
        if let Some(more) = fields_of(root, part, depth + 1) {
            is_object = true;
            all.required.extend(more.required.iter().cloned());
            all.merge(more);
        }
    }
    // A field is required only if all branches require it.
    let mut common: Option<BTreeSet<String>> = None;
    for branch in branches(at, &["anyOf", "oneOf"]) {
        if let Some(more) = fields_of(root, branch, depth + 1) {
            is_object = true;
            common = Some(match common {
                None => more.required.clone(),
                Some(before) => before.intersection(&more.required).cloned().collect(),
            });
            all.merge(more);
        }
    }
    all.required.extend(common.into_iter().flatten());
    is_object.then_some(all)
}

fn references<'s>(root: &'s Value, at: &'s Value) -> impl Iterator<Item = &'s Value> {
    at.get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| reference.strip_prefix('#'))
        .and_then(|pointer| root.pointer(pointer))
        .into_iter()
}

fn branches<'s>(at: &'s Value, keys: &'static [&'static str]) -> impl Iterator<Item = &'s Value> {
    keys.iter()
        .filter_map(|key| at.get(key)?.as_array())
        .flatten()
}

fn number(value: Option<&Value>) -> Option<Number> {
    match value {
        Some(Value::Number(number)) => Some(number.clone()),
        _ => None,
    }
}

impl Fields {
    fn open() -> Self {
        Self {
            others: Some(vec![Want::Any]),
            ..Self::default()
        }
    }

    fn merge(&mut self, more: Fields) {
        for (name, wants) in more.known {
            let known = self.known.entry(name).or_default();
            for want in wants {
                if !known.contains(&want) {
                    known.push(want);
                }
            }
        }
        self.others = self.others.take().or(more.others);
    }
}

impl Want {
    /// Whether the value, whose text is `raw`, is of this kind. Does not check the contents of arrays and objects.
    pub(crate) fn fits(&self, value: &Value, raw: &str) -> bool {
        match self {
            Want::Any => true,
            Want::Null => value.is_null(),
            Want::Boolean => value.is_boolean(),
            // Checks the text, as a `Value` holds no integer of more than 64 bits.
            Want::Integer(bounds) => {
                let digits = raw.strip_prefix('-').unwrap_or(raw);
                digits.bytes().all(|byte| byte.is_ascii_digit()) && bounds.hold(value)
            }
            Want::Number(bounds) => value.is_number() && bounds.hold(value),
            Want::Text(_) => value.is_string(),
            Want::Choice(choice) => choice == value,
            Want::Array => value.is_array(),
            Want::Object => value.is_object(),
        }
    }
}

impl Bounds {
    fn hold(&self, value: &Value) -> bool {
        let Some(value) = value.as_f64() else {
            return false;
        };
        let bound = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
        bound(&self.min).is_none_or(|min| value >= min)
            && bound(&self.max).is_none_or(|max| value <= max)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => write!(f, " from {min} to {max}"),
            (Some(min), None) => write!(f, " of at least {min}"),
            (None, Some(max)) => write!(f, " of at most {max}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Want::Any => f.write_str("any value"),
            Want::Null => f.write_str("null"),
            Want::Boolean => f.write_str("true or false"),
            Want::Integer(bounds) => write!(f, "an integer{bounds}"),
            Want::Number(bounds) => write!(f, "a number{bounds}"),
            Want::Text(None) => f.write_str("a string"),
            Want::Text(Some(format)) => write!(f, "a string ({format})"),
            Want::Choice(Value::String(choice)) => f.write_str(choice),
            Want::Choice(choice) => write!(f, "{choice}"),
            Want::Array => f.write_str("an array as JSON"),
            Want::Object => f.write_str("an object as JSON"),
        }
    }
}

/// Returns the accepted kinds in words, such as "an integer or null" or "one of small, large".
pub(crate) fn describe(wants: &[Want]) -> String {
    let texts = |choices: bool| -> Vec<String> {
        wants
            .iter()
            .filter(|want| matches!(want, Want::Choice(_)) == choices)
            .map(Want::to_string)
            .collect()
    };
    let (mut kinds, choices) = (texts(false), texts(true));
    match choices.as_slice() {
        [] => {}
        [only] => kinds.insert(0, only.clone()),
        several => kinds.insert(0, format!("one of {}", several.join(", "))),
    }
    if kinds.is_empty() {
        return "nothing".to_owned();
    }
    kinds.join(" or ")
}
