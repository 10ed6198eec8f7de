//! TLS and passwords: what is believed, and what is refused.

use super::{load, locally, settings};
use crate::postgres::{PASSWORD, Postgres, certificates};
use crate::{Instance, fault::Fault};
use larder_plugin_support::{Failure, FailureKind};
use serde_json::{Value, json};

async fn encrypted(postgres: &Postgres, more: &Value) -> Result<Value, Failure> {
    with_password(postgres, more, || Ok(Some(PASSWORD.to_owned()))).await
}

async fn with_password(
    postgres: &Postgres,
    more: &Value,
    password: fn() -> Result<Option<String>, Fault>,
) -> Result<Value, Failure> {
    let mut all = json!({ "queries": { "/it": {
        "sql": "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()", "result": "one",
    } } });
    all.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let instance = Instance::new(settings(postgres, &all), password)?;
    load(&instance, "/it", &[]).await
}

#[tokio::test]
async fn a_certificate_is_believed_if_the_authority_signed_it_for_that_name() {
    for key in [
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"][..],
        &["rsa:2048"][..],
    ] {
        locally(async {
            let mut postgres = Postgres::start().await;
            let ca = postgres.encrypt(key).await;
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("ca.pem");
            std::fs::write(&file, &ca).unwrap();
            for ca in [json!(ca), json!(file)] {
                let answer = encrypted(&postgres, &json!({ "tls": "require", "ca": ca }))
                    .await
                    .unwrap();
                assert_eq!(answer, json!({ "ssl": true, "version": "TLSv1.3" }));
            }
            // Where it is offered it is used, whoever it is; where there is an authority, that has to be right.
            assert_eq!(encrypted(&postgres, &json!({})).await.unwrap()["ssl"], true);
            assert_eq!(
                encrypted(&postgres, &json!({ "tls": "disable" }))
                    .await
                    .unwrap()["ssl"],
                false
            );
            let other = tempfile::tempdir().unwrap();
            certificates(other.path(), key);
            let other = std::fs::read_to_string(other.path().join("ca.crt")).unwrap();
            for more in [
                json!({ "tls": "require", "ca": other }),
                json!({ "ca": other }),
                json!({ "ca": ca, "server_name": "db.internal" }),
            ] {
                let failure = encrypted(&postgres, &more).await.unwrap_err();
                assert_eq!(
                    (failure.kind, failure.code.as_str()),
                    (FailureKind::Unavailable, "tls-failed"),
                    "{more}"
                );
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_must_be_encrypted_is_not_sent_in_the_clear() {
    locally(async {
        let postgres = Postgres::start().await;
        assert_eq!(
            encrypted(&postgres, &json!({})).await.unwrap()["ssl"],
            false
        );
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), &["rsa:2048"]);
        let ca = std::fs::read_to_string(dir.path().join("ca.crt")).unwrap();
        let failure = encrypted(&postgres, &json!({ "tls": "require", "ca": ca }))
            .await
            .unwrap_err();
        assert_eq!(failure.code, "tls-failed");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_a_missing_one_is_named() {
    locally(async {
        let postgres = Postgres::start().await;
        let wrong = with_password(&postgres, &json!({}), || Ok(Some("wrong".to_owned())))
            .await
            .unwrap_err();
        assert_eq!(
            (wrong.kind, wrong.code.as_str()),
            (FailureKind::Denied, "credentials-refused")
        );
        let none = with_password(&postgres, &json!({}), || Ok(None))
            .await
            .unwrap_err();
        assert_eq!(
            (none.kind, none.code.as_str()),
            (FailureKind::Denied, "password-missing")
        );
        assert!(none.message.contains("[secrets]"), "{}", none.message);
    })
    .await;
}
