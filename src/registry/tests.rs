//! The registry's client against a small server that answers as registries do, and as proxies in front of them do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};

use super::*;

/// A server that answers what it was told to, and remembers what it was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<HashMap<String, (u16, String)>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

/// The path, and the credentials.
type Asked = (String, Option<String>);

async fn serve(answers: &[(&str, u16, &str)]) -> (String, Fake) {
    let answers = answers.iter().map(|(path, status, body)| ((*path).to_owned(), (*status, (*body).to_owned())));
    let fake = Fake { answers: Arc::new(answers.collect()), ..Fake::default() };
    async fn answer(State(fake): State<Fake>, uri: Uri, headers: HeaderMap, body: String) -> (StatusCode, String) {
        fake.bodies.lock().unwrap().push(body);
        let credentials = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned());
        fake.asked.lock().unwrap().push((uri.path().to_owned(), credentials));
        let (status, body) = fake.answers.get(uri.path()).cloned().unwrap_or((404, "<html>".to_owned()));
        (StatusCode::from_u16(status).unwrap(), body)
    }
    let app = Router::new().fallback(answer).with_state(fake.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, fake)
}

fn settings(urls: &[&str]) -> Settings {
    let urls = urls.iter().map(|u| (*u).to_owned()).collect();
    Settings { urls, timeout: Duration::from_secs(2), ..Settings::default() }
}

fn registry(url: &str) -> Registry {
    Registry::new(&settings(&[url])).unwrap()
}

#[tokio::test]
async fn a_schema_comes_with_all_that_it_refers_to_in_order() {
    let (url, fake) = serve(&[
        (
            "/apis/v7/schemas/ids/7",
            200,
            r#"{"schema":"S","references":[{"name":"b","subject":"b","version":2},{"name":"a","subject":"a/x","version":1}]}"#,
        ),
        ("/apis/v7/subjects/b/versions/2", 200, r#"{"schema":"B","references":[{"name":"a","subject":"a/x","version":1}]}"#),
        ("/apis/v7/subjects/a%2Fx/versions/1", 200, r#"{"schema":"A"}"#),
    ])
    .await;
    let found = registry(&format!("{url}/apis/v7/")).schema(7).await.unwrap();
    assert_eq!(found, Found::Avro { schema: "S".into(), references: vec!["A".into(), "B".into()] });
    assert_eq!(fake.asked.lock().unwrap().len(), 3, "each is asked for once");
}

#[tokio::test]
async fn an_answer_says_what_it_is() {
    let (url, _) = serve(&[
        ("/schemas/ids/1", 404, r#"{"error_code":40403,"message":"Schema 1 not found"}"#),
        ("/schemas/ids/2", 200, r#"{"schema":"{}","schemaType":"PROTOBUF"}"#),
        ("/schemas/ids/3", 503, "busy"),
        ("/schemas/ids/4", 429, r#"{"error_code":429,"message":"slow down"}"#),
        ("/schemas/ids/5", 401, ""),
        ("/schemas/ids/6", 200, "<html>a portal</html>"),
        ("/schemas/ids/8", 200, r#"{"schema":"S","references":[{"name":"b","subject":"b","version":2}]}"#),
        ("/subjects/b/versions/2", 404, r#"{"error_code":40402,"message":"no version"}"#),
    ])
    .await;
    let registry = registry(&url);
    assert_eq!(registry.schema(1).await, Ok(Found::Nothing("Schema 1 not found".into())));
    assert_eq!(registry.schema(2).await, Ok(Found::Other("PROTOBUF".into())));
    assert!(matches!(registry.schema(3).await, Err(RegistryError::Unavailable(m)) if m.contains("503")));
    assert!(matches!(registry.schema(4).await, Err(RegistryError::Unavailable(m)) if m.contains("slow down")));
    assert!(matches!(registry.schema(5).await, Err(RegistryError::Denied(m)) if m.contains("401")));
    assert!(matches!(registry.schema(6).await, Err(RegistryError::NoRegistry(_))));
    // A 404 that is not the registry's is no verdict on the id.
    assert!(matches!(registry.schema(7).await, Err(RegistryError::NoRegistry(m)) if m.contains("404")));
    assert!(matches!(registry.schema(8).await, Ok(Found::Nothing(m)) if m.contains("b version 2")));
    assert!(matches!(registry.probe().await, Err(RegistryError::NoRegistry(_))));
}

#[tokio::test]
async fn a_schema_is_registered_under_its_subject() {
    let (url, fake) = serve(&[
        ("/subjects/t-value/versions", 200, r#"{"id":41}"#),
        ("/subjects/old-value/versions", 409, r#"{"error_code":409,"message":"incompatible with an earlier schema"}"#),
    ])
    .await;
    assert_eq!(registry(&url).register("t-value", "{}").await, Ok(41));
    assert_eq!(fake.bodies.lock().unwrap()[0], r#"{"schema":"{}","schemaType":"AVRO"}"#);
    let refused = registry(&url).register("old-value", "{}").await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused(why) if why.contains("incompatible with")), "{refused:?}");
}

#[tokio::test]
async fn the_next_address_is_asked_where_one_is_away() {
    let (good, _) = serve(&[("/schemas/ids/1", 200, r#"{"schema":"S"}"#), ("/subjects", 200, "[]")]).await;
    let away = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let both = Registry::new(&settings(&[&away, &good])).unwrap();
    assert!(matches!(both.schema(1).await, Ok(Found::Avro { .. })));
    both.probe().await.unwrap();
    assert!(matches!(registry(&away).schema(1).await, Err(RegistryError::Unavailable(m)) if m.contains(&away)));
}

#[tokio::test]
async fn a_schema_is_there_if_one_of_the_addresses_has_it() {
    let none = r#"{"error_code":40403,"message":"none"}"#;
    let (leader, _) = serve(&[("/schemas/ids/1", 200, r#"{"schema":"S"}"#), ("/schemas/ids/2", 404, none)]).await;
    let (behind, _) = serve(&[("/schemas/ids/1", 404, none), ("/schemas/ids/2", 404, none)]).await;
    let (broken, _) = serve(&[("/schemas/ids/2", 503, "")]).await;
    for urls in [[&behind, &leader, &broken], [&broken, &behind, &leader], [&leader, &broken, &behind]] {
        let registry = Registry::new(&settings(&urls.map(String::as_str))).unwrap();
        assert!(matches!(registry.schema(1).await, Ok(Found::Avro { .. })));
        assert_eq!(registry.schema(2).await, Ok(Found::Nothing("none".into())));
    }
}

#[tokio::test]
async fn credentials_are_sent_and_never_printed() {
    let (url, fake) = serve(&[("/schemas/ids/1", 403, "")]).await;
    let basic = Settings { basic_auth: Some("user:s3cret:x".into()), ..settings(&[&url]) };
    let bearer = Settings { bearer_token: Some("t0ken".into()), ..settings(&[&url]) };
    for settings in [basic, bearer] {
        let registry = Registry::new(&settings).unwrap();
        let told = format!("{:?} {registry:?} {settings:?}", registry.schema(1).await);
        assert!(!told.contains("s3cret") && !told.contains("t0ken"), "{told}");
    }
    let sent: Vec<_> = fake.asked.lock().unwrap().iter().map(|(_, sent)| sent.clone().unwrap()).collect();
    assert_eq!(sent, ["Basic dXNlcjpzM2NyZXQ6eA==", "Bearer t0ken"]);
    let in_url = registry(&url.replace("http://", "http://u:s3cret@"));
    assert!(!format!("{:?}", in_url.schema(1).await).contains("s3cret"));
    assert_eq!(fake.asked.lock().unwrap()[2].1.as_deref(), Some("Basic dTpzM2NyZXQ="));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |settings: &Settings| matches!(Registry::new(settings), Err(RegistryError::Settings(_)));
    assert!(refused(&settings(&[])));
    assert!(refused(&settings(&["ftp://x"])));
    assert!(refused(&Settings { ca: Some(b"no PEM".to_vec()), ..settings(&["https://x"]) }));
}
