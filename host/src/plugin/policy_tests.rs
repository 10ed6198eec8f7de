//! Key policies against a guest that misbehaves on purpose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::testing::Launch;
use crate::error::{Failure, FailureKind, Origin};
use crate::key::{Decision, KeyPolicy, Param, PolicyRequest, Visibility};

async fn policy() -> Arc<dyn KeyPolicy> {
    let launched = Launch::new("faulty-policy").launch().await;
    launched.runtime.key_policy().expect("a key policy")
}

fn request(key: &str) -> PolicyRequest {
    PolicyRequest {
        method: "GET",
        route: "/data/{key}".into(),
        path: vec![Param::new("key", key)],
        query: vec![Param::new("lang", "en"), Param::new("page", "1")],
        headers: vec![Param::new("x-tenant", "acme")],
    }
}

fn cached(decision: Result<Decision, Failure>) -> (Vec<Param>, Visibility) {
    match decision {
        Ok(Decision::Cache(derivation)) => (derivation.parts, derivation.visibility),
        other => panic!("not cached: {other:?}"),
    }
}

#[tokio::test]
async fn decisions_are_passed_on() {
    let policy = policy().await;
    // Requests of different shapes one after another: what an instance remembers of the last one must not show.
    for key in ["42", "private", "a-much-longer-key-than-before", "", "ü"] {
        let (parts, visibility) = cached(policy.derive(&request(key)));
        assert_eq!(parts, [Param::new("key", key)]);
        assert_eq!(visibility == Visibility::Private, key == "private");
    }
    assert!(matches!(
        policy.derive(&request("bypass")),
        Ok(Decision::Bypass(_))
    ));
    let Ok(Decision::Reject(rejected)) = policy.derive(&request("reject-denied")) else {
        panic!("not rejected");
    };
    assert_eq!(
        (rejected.kind, &*rejected.code),
        (FailureKind::Denied, "faulty-denied")
    );
}

/// Law 9: whatever a policy does, the request gets its failure in time and the next one its answer.
#[tokio::test]
async fn law_9_panics_loops_and_sleeps_are_contained() {
    let policy = policy().await;
    for (key, code, origin, says) in [
        (
            "panic",
            "trap",
            Origin::Trap,
            "the policy panics on purpose",
        ),
        ("sleep", "trap", Origin::Trap, "a key policy is pure"),
        ("loop", "cpu-limit", Origin::Limit, "[limits] cpu"),
    ] {
        let began = Instant::now();
        let failed = policy.derive(&request(key)).unwrap_err();
        assert_eq!((&*failed.code, failed.origin), (code, origin), "{failed}");
        assert!(failed.message.contains(says), "{failed}");
        assert!(began.elapsed() < Duration::from_secs(2));
        cached(policy.derive(&request("42")));
    }
    cached(policy.derive(&request("print")));
}

#[tokio::test]
async fn a_policy_sees_no_clock_no_chance_no_files_and_no_environment() {
    let policy = policy().await;
    for key in ["clock", "random", "env"] {
        let reused = cached(policy.derive(&request(key)));
        let fresh = cached(policy.derive_fresh(&request(key)));
        let fresh_again = cached(policy.derive_fresh(&request(key)));
        assert_eq!(fresh, fresh_again);
        assert_eq!(reused, fresh);
    }
    let (parts, _) = cached(policy.derive(&request("file")));
    assert_eq!(
        parts[1],
        Param::new("file", "an error"),
        "there are no files"
    );
    let (parts, _) = cached(policy.derive(&request("env")));
    assert_eq!(parts.len(), 1, "the environment is empty");
}

#[tokio::test]
async fn a_fresh_instance_shows_an_impure_policy_and_quarantine_ends_it() {
    let launched = Launch::new("faulty-policy").launch().await;
    let policy = Arc::clone(&launched.runtime).key_policy().unwrap();
    let first = cached(policy.derive(&request("impure")));
    let second = cached(policy.derive(&request("impure")));
    assert_ne!(first, second);
    assert_eq!(cached(policy.derive_fresh(&request("impure"))), first);
    policy.quarantine("it counts");
    let refused = policy.derive(&request("42")).unwrap_err();
    assert_eq!(refused.code, "policy-impure");
    assert!(refused.message.contains("it counts"));
    assert_eq!(
        launched.runtime.condition(),
        super::super::Condition::Quarantined {
            why: "it counts".to_owned()
        }
    );
}

#[tokio::test]
async fn too_many_faults_open_the_breaker() {
    let policy = policy().await;
    for _ in 0..20 {
        policy.derive(&request("panic")).unwrap_err();
    }
    assert_eq!(
        policy.derive(&request("42")).unwrap_err().code,
        "plugin-breaker-open"
    );
}
