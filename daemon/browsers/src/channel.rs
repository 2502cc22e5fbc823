//! The release channel of a browser.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Kind;

/// A release channel, as vendors name theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each variant is named after the channel")]
pub enum Channel {
    Stable,
    Beta,
    Dev,
    Canary,
    Nightly,
    Esr,
    /// Neither path nor version shows it; Chromium itself has no channels.
    #[default]
    Unknown,
}

/// Folders that a channel's installer makes: the parent's name, if that is needed to know it, and its own.
const FOLDERS: &[(&str, &str, Channel)] = &[
    ("google", "chrome", Channel::Stable),
    ("google", "chrome-beta", Channel::Beta),
    ("google", "chrome-unstable", Channel::Dev),
    ("google", "chrome-canary", Channel::Canary),
    ("google", "chrome beta", Channel::Beta),
    ("google", "chrome dev", Channel::Dev),
    ("google", "chrome sxs", Channel::Canary),
    ("", "google chrome.app", Channel::Stable),
    ("", "google chrome beta.app", Channel::Beta),
    ("", "google chrome dev.app", Channel::Dev),
    ("", "google chrome canary.app", Channel::Canary),
    ("microsoft", "msedge", Channel::Stable),
    ("microsoft", "msedge-beta", Channel::Beta),
    ("microsoft", "msedge-dev", Channel::Dev),
    ("microsoft", "msedge-canary", Channel::Canary),
    ("microsoft", "edge", Channel::Stable),
    ("microsoft", "edge beta", Channel::Beta),
    ("microsoft", "edge dev", Channel::Dev),
    ("microsoft", "edge sxs", Channel::Canary),
    ("", "microsoft edge.app", Channel::Stable),
    ("", "microsoft edge beta.app", Channel::Beta),
    ("", "microsoft edge dev.app", Channel::Dev),
    ("", "microsoft edge canary.app", Channel::Canary),
    ("", "firefox-esr", Channel::Esr),
    ("", "firefox nightly.app", Channel::Nightly),
    ("", "firefox developer edition.app", Channel::Dev),
];

impl Channel {
    /// Determines the channel from a program's path, with links followed, and its version.
    pub fn of(kind: Kind, program: &Path, version: &str) -> Channel {
        let path = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        Channel::of_path(kind, &path.to_string_lossy(), version)
    }

    fn of_path(kind: Kind, path: &str, version: &str) -> Channel {
        let path = path.to_lowercase();
        // Both separators: the table has folders of every system.
        let folders: Vec<&str> = path.split(['/', '\\']).collect();
        let of_folder = folders.windows(2).find_map(|pair| {
            let is_it = |(parent, own, _): &&(&str, &str, Channel)| {
                *own == pair[1] && (parent.is_empty() || *parent == pair[0])
            };
            FOLDERS.iter().find(is_it).map(|&(_, _, channel)| channel)
        });
        match (kind, of_folder) {
            (_, Some(channel)) => channel,
            (Kind::Firefox, None) if version.ends_with("esr") => Channel::Esr,
            (Kind::Firefox, None) if version.contains('a') => Channel::Nightly,
            (Kind::Firefox, None) if version.contains('b') => Channel::Beta,
            (_, None) => Channel::Unknown,
        }
    }
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Channel::Stable => "stable",
            Channel::Beta => "beta",
            Channel::Dev => "dev",
            Channel::Canary => "canary",
            Channel::Nightly => "nightly",
            Channel::Esr => "esr",
            Channel::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_known_from_paths_and_versions() {
        use Channel::{Beta, Canary, Dev, Esr, Nightly, Stable, Unknown};
        use Kind::{Chrome, Edge, Firefox};
        let table = [
            (Edge, "/opt/microsoft/msedge/msedge", "150.0.1.2", Stable),
            (Edge, "/opt/microsoft/msedge-dev/msedge", "151.0.1.2", Dev),
            (
                Edge,
                r"C:\Program Files (x86)\Microsoft\Edge Beta\Application\msedge.exe",
                "1.2",
                Beta,
            ),
            (
                Edge,
                "/Applications/Microsoft Edge Canary.app/Contents/MacOS/Microsoft Edge Canary",
                "1.2",
                Canary,
            ),
            (Chrome, "/opt/google/chrome/chrome", "150.0.1.2", Stable),
            (Chrome, "/opt/google/chrome-unstable/chrome", "150.0.1.2", Dev),
            (
                Chrome,
                r"C:\Users\me\AppData\Local\Google\Chrome SxS\Application\chrome.exe",
                "1.2",
                Canary,
            ),
            (Chrome, "/usr/lib/chromium/chromium", "156.0.8078.79", Unknown),
            (Chrome, "/home/me/chrome-linux64/chrome", "156.0.8078.79", Unknown),
            (Firefox, "/usr/lib/firefox-esr/firefox-esr", "153.7.0", Esr),
            (Firefox, "/opt/firefox/firefox", "155.0a1", Nightly),
            (Firefox, "/opt/firefox/firefox", "154.0b3", Beta),
            (Firefox, "/opt/firefox/firefox", "153.0", Unknown),
        ];
        for (kind, path, version, want) in table {
            assert_eq!(Channel::of_path(kind, path, version), want, "{path} {version}");
        }
    }
}
