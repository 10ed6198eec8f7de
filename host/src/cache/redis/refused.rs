//! Why a connection did not come about, and what to write so that it does. Knows the words of TLS, and no connections.

/// What rustls says, and what to do about it. The first that fits counts.
const REMEDIES: &[(&str, &str)] = &[
    (
        "certificate: UnknownIssuer",
        "nobody who is trusted has signed the server's certificate: write ca = \"FILE\" into [redis], with the certificate of who did",
    ),
    (
        "certificate: BadSignature",
        "the server's certificate was signed with another key than that of the authority it names: write ca = \"FILE\" into [redis], with the certificate of who signed it",
    ),
    (
        "certificate not valid for name",
        "the server's certificate is made out to another name: write one of its names into the URL",
    ),
    (
        "alert: CertificateRequired",
        "the server asks for a certificate of this node: write cert = \"FILE\" and key = \"FILE\" into [redis]",
    ),
    ("alert: UnknownCA", NOT_TAKEN),
    ("alert: DecryptError", NOT_TAKEN),
    ("alert: BadCertificate", NOT_TAKEN),
    ("alert: CertificateUnknown", NOT_TAKEN),
    ("alert: CertificateExpired", NOT_TAKEN),
];

const NOT_TAKEN: &str = "the server does not take this node's certificate: write one that its authority has signed into [redis], as cert = \"FILE\" and key = \"FILE\"";

/// The text with what to do about it, where that is known.
pub(super) fn explained(text: String) -> String {
    let known = REMEDIES.iter().find(|(word, _)| text.contains(word));
    match known {
        Some((_, remedy)) => format!("{text}; {remedy}"),
        None => text,
    }
}
