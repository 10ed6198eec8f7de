//! Key policies against a guest that misbehaves on purpose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Limits;
use super::super::compile::Compiled;
use super::super::prepared::{Derive, Prepared, Pure};
use super::super::testing::{self, Launch};
use crate::error::{Failure, FailureKind, Origin};
use crate::key::{Decision, KeyPolicy, Param, PolicyRequest, Visibility};

async fn policy() -> Arc<dyn KeyPolicy> {
    let launched = Launch::new("faulty-policy").launch().await;
    launched.runtime.key_policy().expect("a key policy")
}

/// The same policy, asked by the function of the contract.
async fn policy_by_the_contract() -> Arc<dyn KeyPolicy> {
    let mut spec = Launch::new("faulty-policy").spec().await;
    let Compiled {
        digest,
        size,
        exports,
        imports,
        prepared,
        ..
    } = &*spec.compiled;
    let pure = prepared.pure.clone().expect("a key policy");
    assert!(
        matches!(pure.derive, Derive::Whole { .. }),
        "the adapter was put into it"
    );
    let component = pure.pre.component();
    let interface = component.get_export_index(None, "larder:plugin/key-policy@0.1.0");
    let derive = component.get_export_index(interface.as_ref(), "derive");
    let pure = Pure {
        derive: Derive::Each(derive.expect("the contract's function is still there")),
        ..pure
    };
    spec.compiled = Arc::new(Compiled {
        digest: digest.clone(),
        size: *size,
        exports: *exports,
        imports: imports.clone(),
        prepared: Prepared {
            pure: Some(pure),
            ..Prepared::default()
        },
        described: tokio::sync::OnceCell::new(),
    });
    let launched = testing::engine().launch(spec).await;
    let launched = launched.unwrap_or_else(|refusal| panic!("{refusal}"));
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

/// A request is told and a decision read by the adapter as by the function of the contract, whatever is in them, one after another
/// on one instance.
#[tokio::test]
async fn both_ways_of_asking_come_to_the_same() {
    let (whole, each) = (policy().await, policy_by_the_contract().await);
    let texts = [
        0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 127, 128, 129, 300, 70_000,
    ]
    .map(|bytes| "0123456789abcdef-".chars().cycle().take(bytes).collect())
    .into_iter()
    .chain(["ü".to_owned(), "漢字\0🦀".to_owned()]);
    let texts: Vec<String> = texts.collect();
    let params = |from: usize, count: usize| -> Vec<Param> {
        let text = |at: usize| texts[at % texts.len()].clone();
        let nth = from..from + count;
        nth.map(|at| Param::new(text(at), text(at / 3))).collect()
    };
    for how in ["tell", "tell-bypass", "tell-reject", "42", "private"] {
        for (from, text) in texts.iter().enumerate() {
            for count in [0, 1, 2, 40] {
                let mut path = vec![Param::new("key", how)];
                path.extend(params(from, count));
                let request = PolicyRequest {
                    method: "PUT",
                    route: text.as_str().into(),
                    path,
                    query: params(from + 1, count),
                    headers: params(from + 2, count),
                };
                let [whole, each] = [&whole, &each].map(|policy| policy.derive(&request));
                // Neither is shown: they are long.
                assert!(
                    whole.is_ok() && whole == each,
                    "{how}, text {from}, {count} of each"
                );
            }
        }
    }
    let told = cached(whole.derive(&request("tell"))).0;
    let values = told.iter().map(|part| part.value.as_str());
    assert_eq!(
        values.collect::<Vec<_>>(),
        ["GET", "/data/{key}", "tell", "", "en", "1"]
    );
}

#[tokio::test]
async fn a_policy_that_says_too_much_or_nothing_readable_fails_alone_and_by_name() {
    for policy in [policy().await, policy_by_the_contract().await] {
        let failed = policy.derive(&request("big-part-14000000")).unwrap_err();
        assert_eq!(
            (&*failed.code, failed.origin),
            ("output-limit", Origin::Limit),
            "{failed}"
        );
        cached(policy.derive(&request("42")));
    }
}

/// The memory that a decision is read in grows, and may be larger than what a plugin may hand over at once.
#[tokio::test]
async fn a_policy_may_have_more_memory_than_it_may_hand_over() {
    let policy = policy().await;
    cached(policy.derive(&request("42")));
    for megabytes in [20, 30, 40] {
        assert!(megabytes * 1_000_000 > Limits::default().handed);
        let (parts, _) = cached(policy.derive(&request(&format!("hold-{megabytes}000000"))));
        assert_eq!(parts.len(), 1);
    }
}

/// What was made for a request and for a decision is the policy's again, or it would be out of memory here.
#[tokio::test]
async fn law_12_a_policy_gets_back_what_it_has_decided() {
    let policy = policy().await;
    let value = "x".repeat(50_000);
    let request = PolicyRequest {
        headers: vec![Param::new("x-tenant", &value)],
        ..request("tell")
    };
    for _ in 0..10 * Limits::default().memory / value.len() {
        let Ok(Decision::Cache(derivation)) = policy.derive(&request) else {
            panic!("not cached");
        };
        assert_eq!(derivation.hints[0].value, value);
    }
}

/// Tools that name the core functions otherwise make policies all the same.
#[tokio::test]
async fn a_policy_that_the_adapter_does_not_know_is_asked_by_the_contract() {
    let known = b"larder:plugin/key-policy@0.1.0#derive";
    let mut bytes = testing::guest("faulty-policy").to_vec();
    let mut renamed = 0;
    for at in 0..bytes.len() - known.len() {
        if bytes[at..].starts_with(known) {
            bytes[at + known.len() - 1] = b'X';
            renamed += 1;
        }
    }
    assert!(renamed > 1, "what is exported and what it is called by");
    let engine = testing::engine();
    let compiled = engine.compile("renamed", bytes.into()).await.unwrap();
    let pure = compiled.prepared.pure.as_ref().unwrap();
    assert!(matches!(pure.derive, Derive::Each(_)));
    let spec = Launch::new("faulty-policy").spec().await;
    let spec = super::super::Spec { compiled, ..spec };
    let launched = engine.launch(spec).await.unwrap();
    let policy = launched.runtime.key_policy().unwrap();
    assert_eq!(
        cached(policy.derive(&request("42"))).0,
        [Param::new("key", "42")]
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
