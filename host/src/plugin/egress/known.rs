//! Which addresses the look-ups of one plugin gave for which granted name. Pure: takes `now`, looks nothing up.
//!
//! A socket is connected to an address, long after the name is forgotten by the guest; this is what leads from the address
//! back to the grant. Only addresses that passed the check are ever told to it, so a name that turns around later (DNS
//! rebinding) changes nothing here: what it points to then was never given.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses remembered at once (law 12). Names with more addresses than this take turns: the one that was given longest
/// ago is forgotten, and is known again after the next look-up.
const ADDRESSES_MAX: usize = 256;

/// How long an address counts as the name's after it was given. An address changes hands in the end (a cloud gives it to
/// the next tenant), so it is not trusted for ever; guests look names up whenever they connect, so nobody misses it.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// The addresses that look-ups gave.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The one given longest ago first.
    given: VecDeque<Given>,
}

#[derive(Debug)]
struct Given {
    address: IpAddr,
    name: String,
    at: Instant,
}

impl Known {
    /// A look-up of `name` gave these addresses.
    pub(super) fn learn(&mut self, name: &str, addresses: &[IpAddr], now: Instant) {
        self.given
            .retain(|given| given.name != name || !addresses.contains(&given.address));
        for &address in addresses.iter().take(ADDRESSES_MAX) {
            if self.given.len() == ADDRESSES_MAX {
                self.given.pop_front();
            }
            self.given.push_back(Given {
                address,
                name: name.to_owned(),
                at: now,
            });
        }
    }

    /// The names that this address was given for, not too long ago.
    pub(super) fn names(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let address = address.to_canonical();
        self.given
            .iter()
            .filter(|given| given.address == address && now.duration_since(given.at) < KEPT)
            .map(|given| given.name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_leads_back_to_the_names_it_was_given_for() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.learn("a.test", &[ip("10.0.0.1"), ip("10.0.0.2")], now);
        known.learn("b.test", &[ip("10.0.0.1")], now);
        assert_eq!(known.names(ip("10.0.0.1"), now), ["a.test", "b.test"]);
        assert_eq!(known.names(ip("::ffff:10.0.0.2"), now), ["a.test"]);
        assert!(known.names(ip("10.0.0.3"), now).is_empty());
    }

    #[test]
    fn an_address_is_forgotten_unless_it_is_given_again() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.learn("a.test", &[ip("10.0.0.1"), ip("10.0.0.2")], now);
        let later = now + KEPT / 2;
        known.learn("a.test", &[ip("10.0.0.2")], later);
        let end = now + KEPT;
        assert!(known.names(ip("10.0.0.1"), end).is_empty());
        assert_eq!(known.names(ip("10.0.0.2"), end), ["a.test"]);
    }

    #[test]
    fn law_12_only_so_many_addresses_are_remembered() {
        let (mut known, now) = (Known::default(), Instant::now());
        for n in 0..1000_u32 {
            known.learn("a.test", &[IpAddr::from(n.to_be_bytes())], now);
        }
        assert_eq!(known.given.len(), ADDRESSES_MAX);
        assert_eq!(
            known.names(IpAddr::from(999_u32.to_be_bytes()), now).len(),
            1
        );
        assert!(
            known
                .names(IpAddr::from(1_u32.to_be_bytes()), now)
                .is_empty()
        );
    }
}
