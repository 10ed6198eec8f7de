//! Law 9, egress: what a grant covers, and which addresses need one.

use super::*;

fn reach(http: &[&str], networks: &[&str]) -> Reach {
    reach_with(http, &[], networks)
}

fn reach_with(http: &[&str], tcp: &[&str], networks: &[&str]) -> Reach {
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    Reach::parse(&own(http), &own(tcp), &own(networks)).expect("the grants are well-formed")
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    fn check(granted: &str, asked: &str, expect: bool) {
        let origin = Origin::of(&asked.parse().unwrap()).expect(asked);
        assert_eq!(
            reach(&[granted], &[]).allows(&origin),
            expect,
            "{granted} covers {asked}"
        );
    }
    check(
        "https://api.example.com",
        "https://api.example.com/a?b",
        true,
    );
    check(
        "https://api.example.com",
        "https://api.example.com:443/",
        true,
    );
    check(
        "https://api.example.com:443",
        "https://api.example.com/",
        true,
    );
    check("https://api.example.com/", "https://api.example.com/", true);
    check("https://API.example.com", "https://api.EXAMPLE.com/", true);
    check("https://api.example.com", "https://api.example.com./", true);
    check("https://api.example.com", "http://api.example.com/", false);
    check(
        "https://api.example.com",
        "https://api.example.com:8443/",
        false,
    );
    check("https://api.example.com", "https://example.com/", false);
    check(
        "https://api.example.com",
        "https://evil-api.example.com/",
        false,
    );
    check(
        "https://api.example.com",
        "https://api.example.com.evil.test/",
        false,
    );
    check("http://127.0.0.1:9000", "http://127.0.0.1:9000/x", true);
    check("http://127.0.0.1:9000", "http://127.0.0.1/x", false);
    check("http://127.0.0.1:9000", "http://127.0.0.2:9000/x", false);
    check("http://127.0.0.1:9000", "http://localhost:9000/x", false);
    check(
        "http://127.0.0.1:9000",
        "http://[::ffff:127.0.0.1]:9000/x",
        true,
    );
    check("http://[::1]:9000", "http://[0:0:0:0:0:0:0:1]:9000/x", true);
    check("http://[::1]:9000", "http://127.0.0.1:9000/x", false);
    check("https://*.example.com", "https://a.example.com/", true);
    check("https://*.example.com", "https://a.b.example.com/", true);
    check("https://*.example.com", "https://example.com/", false);
    check(
        "https://*.example.com",
        "https://a.example.com.evil.test/",
        false,
    );
    check("https://*.example.com", "https://evilexample.com/", false);
    check(
        "https://*.example.com:8443",
        "https://a.example.com:8443/",
        true,
    );
}

#[test]
fn an_address_in_disguise_is_the_address() {
    fn check(text: &str, expect: &str) {
        assert_eq!(
            Host::parse(text),
            Ok(Host::Address(expect.parse().unwrap())),
            "{text}"
        );
    }
    check("127.0.0.1", "127.0.0.1");
    check("127.0.0.1.", "127.0.0.1");
    check("127.1", "127.0.0.1");
    check("2130706433", "127.0.0.1");
    check("0x7f.1", "127.0.0.1");
    check("0x7f000001", "127.0.0.1");
    check("0177.0.0.01", "127.0.0.1");
    check("0", "0.0.0.0");
    check("%31%32%37.1", "127.0.0.1");
    check("::1", "::1");
    check("[0:0:0:0:0:0:0:1]", "::1");
    check("::ffff:169.254.169.254", "169.254.169.254");
    check("[::ffff:7f00:1]", "127.0.0.1");
    for text in [
        "",
        ".",
        "a..b",
        "[::1",
        "a b",
        "256.256.256.256",
        "1.2.3.4.5",
    ] {
        assert!(Host::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn an_endpoint_is_host_and_port() {
    fn check(granted: &str, host: &str, port: u16, expect: bool) {
        let host = Host::parse(host).expect(host);
        assert_eq!(
            reach_with(&[], &[granted], &[]).connects(&host, port),
            expect,
            "{granted} covers {host}:{port}"
        );
    }
    check("db.internal:5432", "db.internal", 5432, true);
    check("DB.internal.:5432", "db.INTERNAL", 5432, true);
    check("db.internal:5432", "db.internal", 5433, false);
    check("db.internal:5432", "a.db.internal", 5432, false);
    check("127.0.0.1:5432", "127.0.0.1", 5432, true);
    check("127.0.0.1:5432", "127.0.0.2", 5432, false);
    check("127.0.0.1:5432", "localhost", 5432, false);
    check("localhost:5432", "127.0.0.1", 5432, false);
    check("[::1]:5432", "::1", 5432, true);
    check("[::1]:5432", "127.0.0.1", 5432, false);
    check("[::ffff:127.0.0.1]:5432", "127.0.0.1", 5432, true);
}

#[test]
fn a_request_that_hides_its_host_is_refused() {
    fn check(asked: &str, expect: &str) {
        assert_eq!(Origin::of(&asked.parse().unwrap()), Err(expect), "{asked}");
    }
    check(
        "http://granted.test@evil.test/",
        "a user name in the authority is not sent",
    );
    check("ftp://example.com/", "the scheme must be http or https");
    check("/relative", "the scheme must be http or https");
    check("http://example.com:0/", "port 0 names nothing");
    check("http://a..b/", "the host is not a name");
}

#[test]
fn a_grant_that_is_not_understood_says_so() {
    fn check(http: &str, expect: &str) {
        let problems = Reach::parse(&[http.to_owned()], &[], &[]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].message.contains(expect),
            "{http}: {}",
            problems[0].message
        );
        assert!(problems[0].remedy.is_some());
    }
    check("api.example.com", "the scheme must be http or https");
    check("https://api.example.com/v1", "leave the path out");
    check("https://*", "a wildcard stands only at the beginning");
    check("https://*.", "a wildcard stands only at the beginning");
    check(
        "https://api.*.com",
        "a wildcard stands only at the beginning",
    );
    check("https://*.*.com", "a wildcard stands only at the beginning");
    check("not an origin", "it is not an origin");
    let tcp = ["db".into(), "db:0".into(), "::1:80".into(), "*.x:1".into()];
    let networks = ["10.0.0.0/40".into(), "inside".into()];
    let problems = Reach::parse(&[], &tcp, &networks).unwrap_err();
    assert_eq!(problems.len(), 6, "every line is told");
}

#[test]
fn only_granted_names_resolve() {
    let reach = reach_with(
        &[
            "https://api.example.com",
            "http://*.internal",
            "http://127.0.0.1:1",
        ],
        &["db.example.com:5432", "127.0.0.2:1"],
        &[],
    );
    for (name, expect) in [
        ("api.example.com", true),
        ("API.example.com.", true),
        ("example.com", false),
        ("db.internal", true),
        ("a.db.internal", true),
        ("internal", false),
        ("db.example.com", true),
        ("x.db.example.com", false),
        ("127.0.0.2", false),
        ("127.0.0.1", false),
        ("127.1", false),
        ("evil.test", false),
    ] {
        assert_eq!(reach.resolves(name), expect, "{name}");
    }
}

#[test]
fn addresses_outside_the_public_internet_need_networks() {
    fn check(address: &str, expect: Option<&str>) {
        let address: IpAddr = address.parse().unwrap();
        let kind = special(address);
        match expect {
            None => assert_eq!(kind, None, "{address}"),
            Some(word) => assert!(
                kind.is_some_and(|kind| kind.contains(word)),
                "{address}: {kind:?}"
            ),
        }
        // Granting nothing else than names admits exactly the public ones.
        assert_eq!(
            Reach::default().admits(address).is_ok(),
            expect.is_none(),
            "{address}"
        );
    }
    check("8.8.8.8", None);
    check("172.15.255.255", None);
    check("172.32.0.1", None);
    check("100.63.255.255", None);
    check("100.128.0.1", None);
    check("192.167.1.1", None);
    check("223.255.255.255", None);
    check("2606:4700::1111", None);
    check("2001:4860:4860::8888", None);
    check("0.0.0.0", Some("unspecified"));
    check("0.1.2.3", Some("unspecified"));
    check("127.0.0.1", Some("loopback"));
    check("127.255.255.254", Some("loopback"));
    check("10.1.2.3", Some("private"));
    check("172.16.0.1", Some("private"));
    check("172.31.255.255", Some("private"));
    check("192.168.0.1", Some("private"));
    check("169.254.169.254", Some("metadata"));
    check("100.64.0.1", Some("shared"));
    check("192.0.0.8", Some("reserved"));
    check("192.0.2.1", Some("documentation"));
    check("198.18.0.1", Some("benchmarking"));
    check("224.0.0.1", Some("multicast"));
    check("255.255.255.255", Some("reserved"));
    check("::", Some("unspecified"));
    check("::1", Some("loopback"));
    check("::ffff:127.0.0.1", Some("loopback"));
    check("::ffff:169.254.169.254", Some("metadata"));
    check("::ffff:8.8.8.8", None);
    check("::127.0.0.1", Some("IPv4-compatible"));
    check("64:ff9b::7f00:1", Some("NAT64"));
    check("64:ff9b:1::1", Some("NAT64"));
    check("2001::1", Some("reserved"));
    check("2001:db8::1", Some("documentation"));
    check("2002:7f00:1::", Some("6to4"));
    check("fc00::1", Some("private"));
    check("fd12:3456::1", Some("private"));
    check("fd00:ec2::254", Some("private"));
    check("fe80::1", Some("link-local"));
    check("febf::1", Some("link-local"));
    check("fec0::1", Some("site-local"));
    check("ff02::1", Some("multicast"));
    check("4000::1", Some("reserved"));
}

#[test]
fn networks_open_exactly_their_range() {
    fn check(network: &str, address: &str, expect: bool) {
        let reach = reach(&["http://a.test"], &[network]);
        assert_eq!(
            reach.admits(address.parse().unwrap()).is_ok(),
            expect,
            "{network} admits {address}"
        );
    }
    check("127.0.0.0/8", "127.0.0.1", true);
    check("127.0.0.0/8", "::ffff:127.0.0.1", true);
    check("127.0.0.0/8", "::1", false);
    check("127.0.0.1", "127.0.0.1", true);
    check("127.0.0.1", "127.0.0.2", false);
    check("10.0.0.0/8", "10.255.0.1", true);
    check("10.0.0.0/8", "192.168.0.1", false);
    check("10.0.0.0/8", "8.8.8.8", true);
    check("fd00::/8", "fd00::1", true);
    check("fd00::/8", "fc00::1", false);
}

#[test]
fn equal_rights_compare_equal_however_they_are_written() {
    assert_eq!(
        reach(&["https://b.test:443", "http://a.test"], &["10.1.0.0/8"]),
        reach(
            &["http://A.test:80", "https://b.test", "http://a.test"],
            &["10.0.0.0/8"]
        ),
    );
}
