//! Events and the tasks that they start.
use conductor::__private::{EventDefinition, TaskDefinition, inventory};
use conductor::prelude::*;

/// Somebody has an account now.
#[event]
pub struct UserSignedUp {
    pub user_id: i64,
    email: String,
    plan: String,
    visits: u32,
    r#type: Option<String>,
    active: bool,
    address: Address,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Address {
    city: String,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    post_code: String,
    to: Option<Box<Contact>>,
    size: Size<u32>,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields)]
pub struct Contact {
    #[serde(rename = "full-name")]
    name: String,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields)]
pub struct Size<T> {
    #[serde(rename = "w")]
    width: T,
}

#[event]
struct Posted {
    parcel: Option<Parcel>,
    #[serde(rename = "return")]
    back: Parcel,
    sender: Option<Address>,
}

#[task(event(
    Posted,
    when = parcel.post_code == "10115" && back.size.width > 3 && sender.city != "Bonn" && back.to.is_some()
))]
async fn deliver(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[event(name = "user.renamed", version = 2)]
#[derive(PartialEq, serde::Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct UserRenamed {
    user_id: i64,
    #[serde(rename = "now")]
    new_name: String,
    #[serde(skip)]
    _old_name: String,
}

#[event]
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct AllDerived {
    id: u64,
}

#[event]
struct CacheCleared;

const MANY: u32 = 3;

#[task(event(UserSignedUp, when = plan == "pro" && visits > MANY))]
async fn welcome(ctx: &TaskContext, payload: UserSignedUp) -> anyhow::Result<()> {
    drop((payload.email, payload.r#type));
    Ok(())
}

#[task(
    event(UserSignedUp, when = (!active || r#type.is_none()) && address.city != "Berlin"),
    event(UserRenamed, when = ["a", "b"].contains(&new_name)),
    event = AllDerived,
    cron("@daily", payload = Audit { user_id: 0 }),
)]
async fn audit(ctx: &TaskContext, user_id: i64) -> anyhow::Result<i64> {
    Ok(user_id)
}

impl From<UserSignedUp> for Audit {
    fn from(event: UserSignedUp) -> Self {
        Self {
            user_id: event.user_id,
        }
    }
}

impl From<UserRenamed> for Audit {
    fn from(event: UserRenamed) -> Self {
        Self {
            user_id: event.user_id,
        }
    }
}

impl From<AllDerived> for Audit {
    fn from(event: AllDerived) -> Self {
        Self {
            user_id: event.id as i64,
        }
    }
}

#[task(event(CacheCleared))]
async fn warm_up(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn task(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

fn filter(task_name: &str, index: usize) -> String {
    (task(task_name).subscriptions[index].filter.unwrap())().to_string()
}

#[test]
fn holds() {
    assert_eq!(
        (UserSignedUp::NAME, UserSignedUp::VERSION),
        ("user_signed_up", 1)
    );
    assert_eq!(
        (UserRenamed::NAME, UserRenamed::VERSION),
        ("user.renamed", 2)
    );
    let renamed = UserRenamed {
        user_id: 1,
        new_name: "a".into(),
        _old_name: String::new(),
    };
    assert!(renamed.clone() == renamed);
    assert!(format!("{renamed:?}").contains("new_name"));

    assert_eq!(
        UserRenamed::user_id.gt(3).to_json().to_string(),
        r#"{"op":"gt","path":["userId"],"value":3}"#
    );
    assert_eq!(
        UserRenamed::new_name.is_null().to_json().to_string(),
        r#"{"op":"null","path":["now"]}"#
    );
    assert_eq!(
        UserSignedUp::r#type.eq("x").to_json().to_string(),
        r#"{"op":"eq","path":["type"],"value":"x"}"#
    );
    assert_eq!(
        AllDerived::id.is_in([1, 2]).to_json().to_string(),
        r#"{"op":"in","path":["id"],"values":[1,2]}"#
    );

    assert_eq!(
        filter("welcome", 0),
        r#"{"of":[{"op":"eq","path":["plan"],"value":"pro"},{"op":"gt","path":["visits"],"value":3}],"op":"and"}"#
    );
    assert_eq!(
        filter("audit", 0),
        concat!(
            r#"{"of":[{"of":[{"of":{"op":"eq","path":["active"],"value":true},"op":"not"},"#,
            r#"{"op":"null","path":["type"]}],"op":"or"},"#,
            r#"{"op":"ne","path":["address","city"],"value":"Berlin"}],"op":"and"}"#
        )
    );
    let deliver = filter("deliver", 0);
    for path in [
        r#"["parcel","postCode"]"#,
        r#"["return","size","w"]"#,
        r#"["sender","city"]"#,
        r#"["return","to"]"#,
    ] {
        assert!(deliver.contains(path), "{deliver}");
    }
    let name = Posted::parcel
        .then(Parcel::to)
        .then(Contact::name)
        .eq("Ada");
    assert_eq!(
        name.to_json()["path"].to_string(),
        r#"["parcel","to","full-name"]"#
    );
    let width = Posted::back
        .then(Parcel::size)
        .then(Size::<u32>::width)
        .le(9);
    assert_eq!(
        width.to_json()["path"].to_string(),
        r#"["return","size","w"]"#
    );

    assert_eq!(
        filter("audit", 1),
        r#"{"op":"in","path":["now"],"values":["a","b"]}"#
    );
    let audit = task("audit").subscriptions;
    assert_eq!(
        (audit.len(), audit[1].event, audit[1].event_version),
        (3, "user.renamed", 2)
    );
    assert!(audit[2].filter.is_none());
    assert_eq!(
        (audit[2].convert)(r#"{"id":7}"#).unwrap(),
        r#"{"user_id":7}"#
    );
    assert!((audit[2].convert)(r#"{"id":"seven"}"#).is_err());
    assert_eq!(
        (task("warm_up").subscriptions[0].convert)("null").unwrap(),
        "null"
    );

    let event = inventory::iter::<EventDefinition>()
        .find(|event| event.name == "user_signed_up" && event.place.file == file!())
        .unwrap();
    assert_eq!(
        (event.version, event.docs),
        (1, "Somebody has an account now.")
    );
    assert!(event.schema().to_string().contains("visits"));
    assert_eq!(
        inventory::iter::<EventDefinition>()
            .filter(|event| event.place.file == file!())
            .count(),
        5
    );
}
