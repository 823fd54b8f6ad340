//! The page to read and try the contract works where there is no Internet.

use crate::support::api;
use reqwest::Method;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_all_that_it_loads_come_from_the_server() {
    let server = api(&[]).await;
    let get = async |path: &str| {
        let answer = server.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    };
    let page = get("/docs/").await;
    let attributes = ["src=\"", "href=\""].map(|name| page.split(name).skip(1));
    let loaded: Vec<&str> = attributes
        .into_iter()
        .flatten()
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(loaded.len() >= 3, "{page}");
    for name in loaded {
        assert!(!name.contains("//"), "{name} is somewhere else");
        let path = format!("/docs/{}", name.trim_start_matches("./"));
        assert!(!get(&path).await.is_empty());
    }
    let initializer = get("/docs/swagger-initializer.js").await;
    assert!(initializer.contains("/api/openapi.json"), "{initializer}");
    assert!(get("/api/openapi.json").await.contains("\"openapi\""));
}
