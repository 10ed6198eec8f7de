//! Law 9, egress by sockets: only granted names are looked up, and only what a look-up gave, or a grant spells out, is
//! connected to.

use std::sync::atomic::Ordering;

use super::super::EgressClient;
use super::super::resolve::Lookup;
use super::super::tests::{Names, fetch, get, limits};
use super::*;
use crate::config::Grants;

fn egress(names: &Arc<Names>, tcp: &[&str], networks: &[&str]) -> Arc<Egress> {
    let own = |list: &[&str]| list.iter().map(|&it| it.to_owned()).collect();
    let grants = Grants {
        http: vec!["http://db.test".to_owned()],
        tcp: own(tcp),
        networks: own(networks),
        ..Grants::default()
    };
    let client = EgressClient::with_lookup(Arc::clone(names) as Arc<dyn Lookup>);
    Egress::new("demo", &grants, &limits(2), &client, &Arc::default()).expect("good grants")
}

async fn look_up(egress: &Arc<Egress>, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
    Arc::clone(egress).look_up(name.to_owned()).await
}

fn may(egress: &Arc<Egress>, address: &str) -> bool {
    egress.may(address.parse().unwrap(), SocketAddrUse::TcpConnect)
}

fn last(egress: &Egress) -> String {
    egress.denials().pop().unwrap_or_default()
}

#[tokio::test]
async fn law_9_only_the_names_of_granted_endpoints_reach_a_resolver() {
    let names = Names::say(&[&["93.184.216.34"]]);
    let egress = egress(&names, &["db.internal:5432"], &[]);
    for name in [
        "evil.test",
        "s3cret.evil.test",
        "a.db.internal",
        "db.internal.evil.test",
        // Granted for requests, which are looked up for themselves.
        "db.test",
    ] {
        assert_eq!(
            look_up(&egress, name).await,
            Err(NoAddress::Denied),
            "{name}"
        );
    }
    assert_eq!(look_up(&egress, "a b").await, Err(NoAddress::Invalid));
    assert_eq!(names.asked.load(Ordering::SeqCst), 0);
    assert!(
        egress.denials()[0].ends_with(
            "in demo.toml under [grants] write `tcp = [\"db.internal:5432\", \"evil.test:PORT\"]`, with the port it connects to"
        ),
        "{:?}",
        egress.denials()
    );
    assert!(look_up(&egress, "DB.internal.").await.is_ok());
    assert_eq!(names.asked.load(Ordering::SeqCst), 1);
    let nothing = Egress::denied("demo");
    assert_eq!(
        look_up(&nothing, "db.internal").await,
        Err(NoAddress::Denied)
    );
}

#[tokio::test]
async fn law_9_a_socket_is_connected_to_what_a_look_up_gave_at_the_granted_port_alone() {
    let names = Names::say(&[&["93.184.216.34", "2606:2800:220:1::1"]]);
    let egress = egress(&names, &["db.internal:5432"], &[]);
    assert!(!may(&egress, "93.184.216.34:5432"), "nobody has looked yet");
    assert!(last(&egress).contains("`tcp = [\"db.internal:5432\", \"93.184.216.34:5432\"]`"));
    look_up(&egress, "db.internal").await.unwrap();
    assert!(may(&egress, "93.184.216.34:5432"));
    assert!(may(&egress, "[2606:2800:220:1::1]:5432"));
    assert!(!may(&egress, "93.184.216.34:5433"));
    assert_eq!(
        last(&egress),
        "a connection to db.internal:5433 is not granted: in demo.toml under [grants] write `tcp = [\"db.internal:5432\", \"db.internal:5433\"]`"
    );
    assert!(!may(&egress, "93.184.216.35:5432"));
    assert!(last(&egress).contains("93.184.216.35:5432"));
}

#[tokio::test]
async fn law_9_a_name_that_turns_around_leads_nowhere() {
    let names = Names::say(&[&["93.184.216.34"], &["127.0.0.1"]]);
    let egress = egress(&names, &["rebind.test:5432"], &[]);
    assert_eq!(
        look_up(&egress, "rebind.test").await,
        Ok(vec!["93.184.216.34".parse().unwrap()])
    );
    assert_eq!(
        look_up(&egress, "rebind.test").await,
        Err(NoAddress::Denied)
    );
    assert_eq!(
        last(&egress),
        "rebind.test resolves to 127.0.0.1, which is loopback and not granted: in demo.toml under [grants] write `networks = [\"127.0.0.1/32\"]`"
    );
    assert!(!may(&egress, "127.0.0.1:5432"));
    assert!(
        may(&egress, "93.184.216.34:5432"),
        "what passed still passes"
    );
}

/// Every way to name a place inside, by name and as an address, for requests and for sockets: one rule.
#[tokio::test]
async fn law_9_no_form_of_an_address_inside_slips_through() {
    for inside in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "::1",
        "::",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001::7f00:1",
    ] {
        let names = Names::say(&[&[inside]]);
        let egress = egress(&names, &["db.test:80"], &[]);
        assert_eq!(
            look_up(&egress, "db.test").await,
            Err(NoAddress::Denied),
            "{inside}"
        );
        assert!(
            last(&egress).contains("write `networks = ["),
            "{}",
            last(&egress)
        );
        let before = egress.denied_count();
        let fetched = fetch(&egress, get("http://db.test/")).await;
        assert!(
            matches!(fetched, Err(wasmtime_wasi_http::Error::HttpRequestDenied)),
            "{inside}: {fetched:?}"
        );
        let ip: IpAddr = inside.parse().unwrap();
        let literal = SocketAddr::new(ip, 80);
        assert!(!may(&egress, &literal.to_string()), "{inside}");
        let fetched = fetch(&egress, get(&format!("http://{literal}/"))).await;
        assert!(
            matches!(fetched, Err(wasmtime_wasi_http::Error::HttpRequestDenied)),
            "{inside}: {fetched:?}"
        );
        assert_eq!(egress.denied_count(), before + 3, "{inside}");
    }
}

#[tokio::test]
async fn law_9_an_address_in_disguise_is_judged_as_the_address() {
    let names = Names::say(&[&["93.184.216.34"]]);
    let egress = egress(&names, &["127.0.0.1:5432"], &[]);
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    for text in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "::ffff:127.0.0.1",
    ] {
        assert_eq!(look_up(&egress, text).await, Ok(vec![loopback]), "{text}");
    }
    assert_eq!(
        names.asked.load(Ordering::SeqCst),
        0,
        "an address is nobody's name"
    );
    assert!(may(&egress, "127.0.0.1:5432"), "granted as it is");
    assert!(may(&egress, "[::ffff:127.0.0.1]:5432"));
    assert!(!may(&egress, "127.0.0.1:5433"));
    assert!(!may(&egress, "127.0.0.2:5432"));
    assert!(!may(&egress, "[::1]:5432"));
}

#[tokio::test]
async fn networks_open_a_range_to_granted_names_alone() {
    let names = Names::say(&[&["10.0.0.5", "127.0.0.1"]]);
    let egress = egress(&names, &["db.internal:5432"], &["10.0.0.0/8"]);
    assert_eq!(
        look_up(&egress, "db.internal").await,
        Ok(vec!["10.0.0.5".parse().unwrap()])
    );
    assert!(may(&egress, "10.0.0.5:5432"));
    assert!(!may(&egress, "10.0.0.6:5432"), "no look-up gave it");
}

#[test]
fn law_9_a_socket_neither_listens_nor_sends_datagrams() {
    let names = Names::say(&[]);
    let egress = egress(&names, &["127.0.0.1:5432"], &[]);
    let may = |address: &str, purpose| egress.may(address.parse().unwrap(), purpose);
    assert!(may("0.0.0.0:0", SocketAddrUse::TcpBind), "to connect from");
    assert!(may("[::]:0", SocketAddrUse::TcpBind));
    assert_eq!(egress.denied_count(), 0);
    assert!(!may("127.0.0.1:5432", SocketAddrUse::TcpBind));
    assert!(!may("0.0.0.0:80", SocketAddrUse::TcpBind));
    assert!(!may("0.0.0.0:0", SocketAddrUse::TcpListen));
    assert!(!may("127.0.0.1:5432", SocketAddrUse::TcpAccept));
    assert!(last(&egress).contains("`tcp` of [grants]"));
    assert!(!may("0.0.0.0:0", SocketAddrUse::UdpBind));
    assert!(!may("127.0.0.1:5432", SocketAddrUse::UdpSend));
    assert!(!may("127.0.0.1:5432", SocketAddrUse::UdpReceive));
    assert!(last(&egress).contains("UDP"));
    assert_eq!(egress.denied_count(), 7);
}
