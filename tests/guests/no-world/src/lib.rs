//! `no-world`: a sound component that exports nothing of the contract.

wit_bindgen::generate!({ path: "wit" });

struct NoWorld;
export!(NoWorld);

impl exports::acme::other::greeting::Guest for NoWorld {
    fn greet() -> String {
        "hello".to_owned()
    }
}
