//! The admin listener: every method on every route, with no token, a wrong one, the one that only reads, and the right one.

use bytes::Bytes;
use http::Method;

use super::stage::{READ_TOKEN, Stage, TOKEN};
use super::{Case, ensure};

/// Each route with the method it answers; the first two answer whoever asks.
const ROUTES: &[(&str, &str)] = &[
    ("/livez", "GET"),
    ("/readyz", "GET"),
    ("/", "GET"),
    ("/metrics", "GET"),
    ("/plugins", "GET"),
    ("/overview", "GET"),
    ("/plugins/echo/reload", "POST"),
    ("/reload", "POST"),
    ("/routes", "GET"),
    ("/entries", "GET"),
    ("/purge", "POST"),
    ("/warm", "POST"),
    ("/queue", "GET"),
    ("/queue/dead", "GET"),
    ("/queue/dead/retry", "POST"),
    ("/queue/dead/drop", "POST"),
    ("/no-such-thing", ""),
];
const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PURGE"];

pub(super) fn cases(stage: &Stage) -> Vec<Case<'_>> {
    ROUTES
        .iter()
        .map(|(route, answers)| -> Case<'_> {
            let name = format!("admin: every method and token on {route}");
            (name, Box::pin(matrix(stage, route, answers)))
        })
        .collect()
}

async fn matrix(stage: &Stage, route: &str, answers: &str) -> Result<(), String> {
    let (wrong, right) = (format!("Bearer {TOKEN}x"), format!("Bearer {TOKEN}"));
    let reads = format!("Bearer {READ_TOKEN}");
    let is_open = matches!(route, "/livez" | "/readyz");
    for method in METHODS {
        for token in [
            None,
            Some("Bearer "),
            Some(TOKEN),
            Some(&*wrong),
            Some(&*reads),
            Some(&*right),
        ] {
            let fields: Vec<_> = token
                .iter()
                .map(|token| ("authorization", *token))
                .collect();
            let asked = Method::from_bytes(method.as_bytes()).expect("a method");
            let admin = &stage.larder.admin;
            let answer = admin.request(asked, route, &fields, Bytes::new()).await;
            let status = answer.status.as_u16();
            let is_read = token == Some(&reads);
            let may = is_open || token == Some(&right) || is_read && *method == "GET";
            let is_right = match (may, *method == answers) {
                // There is nothing to keep secret of what is not there.
                _ if answers.is_empty() => status == 404,
                (false, true) if is_read => status == 403,
                (false, false) if is_read => status == 403 || status == 405,
                (false, true) => status == 401,
                // Which methods there are is in the documentation.
                (false, false) => status == 401 || status == 405,
                (true, false) => status == 405,
                // What it says depends on the body, of which there is none, and on whether there is a queue.
                (true, true) => !matches!(status, 401 | 403 | 405),
            };
            ensure(is_right, || format!("{method} with {token:?}: {answer:?}"))?;
        }
    }
    Ok(())
}
