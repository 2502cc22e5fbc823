//! A model from a Hugging Face hub, file by file through curl.

use std::fmt;
use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::PullError;
use super::folder::WEIGHTS;
use super::transfer::{self, Program};

/// The hub that is used unless `HF_ENDPOINT` names another.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// The owner of models that are named without one.
const DEFAULT_OWNER: &str = "sentence-transformers";

/// A hub that has not answered by then counts as unreachable.
const CONNECT_TIMEOUT_S: &str = "5";

/// A transfer slower than a kilobyte a second for this long is aborted.
const STALL_TIMEOUT_S: &str = "30";

/// What is fetched beside the weights where the repository has it. The importer decides which of them it needs.
const DESCRIPTIONS: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

const CURL: Program = Program { name: "curl", remedy: "Debian and Ubuntu: apt-get install curl" };

/// `owner/name` on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    owner: String,
    name: String,
}

impl Repository {
    /// Accepts only characters that cannot change the meaning of the URL or path that the name becomes part of.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/').unwrap_or((DEFAULT_OWNER, text));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= 96
                && !part.starts_with(['.', '-'])
                && part.chars().all(known)
        };
        (plain(owner) && plain(name))
            .then(|| Self { owner: owner.to_owned(), name: name.to_owned() })
    }

    /// Whether a Python package holds the same model.
    pub(super) fn is_packaged(&self) -> bool {
        self.owner == DEFAULT_OWNER && self.name == super::package::MODEL
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Fetches the first kind of weights that the repository has and every description into `to`.
pub(super) async fn fetch(
    repository: &Repository,
    to: &Path,
    scratch: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<(), PullError> {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| PUBLIC_HUB.to_owned());
    let endpoint = endpoint.trim_end_matches('/');
    let mut hub =
        Hub { endpoint, repository, revision: "main".to_owned(), scratch, progress, done: 0 };
    let mut status = 404;
    for weights in WEIGHTS {
        status = hub.fetch(weights, to).await?;
        if status != 404 {
            break;
        }
    }
    if status != 200 {
        return Err(hub.refused(WEIGHTS[0], status));
    }
    for description in DESCRIPTIONS {
        let status = hub.fetch(description, to).await?;
        if status != 200 && status != 404 {
            return Err(hub.refused(description, status));
        }
    }
    Ok(())
}

struct Hub<'a> {
    endpoint: &'a str,
    repository: &'a Repository,
    /// A branch until the first answer names the commit; then that, so that all files are of one version.
    revision: String,
    scratch: &'a Path,
    progress: &'a dyn Fn(u64, Option<u64>),
    done: u64,
}

impl Hub<'_> {
    /// Fetches one file and returns the HTTP status; the file is there only with 200.
    async fn fetch(&mut self, file: &str, to: &Path) -> Result<u16, PullError> {
        let headers = self.scratch.join("headers");
        let body = self.scratch.join("body");
        for stale in [&headers, &body] {
            // Leftovers of an earlier file would be counted as this one's.
            if stale.exists() {
                fs::remove_file(stale).map_err(PullError::io("remove", stale))?;
            }
        }
        let mut curl = Command::new(CURL.name);
        curl.args(["--silent", "--show-error", "--fail", "--location", "--max-redirs", "5"]);
        curl.args(["--connect-timeout", CONNECT_TIMEOUT_S]);
        curl.args(["--speed-limit", "1024", "--speed-time", STALL_TIMEOUT_S]);
        // A redirect may not lead from the web to other protocols, such as files of this machine.
        curl.args(["--proto", "=http,https", "--proto-redir", "=http,https"]);
        curl.args(["--write-out", "%{http_code}", "--dump-header"])
            .arg(&headers)
            .arg("--output")
            .arg(&body);
        curl.arg(format!("{}/{}/resolve/{}/{file}", self.endpoint, self.repository, self.revision));
        let done = self.done;
        let arrived = || done + fs::metadata(&body).map_or(0, |metadata| metadata.len());
        let total = || Some(done + content_length(&fs::read_to_string(&headers).ok()?)?);
        let output = transfer::run(CURL, curl, arrived, total, self.progress).await?;
        let status: u16 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
        if status >= 400 {
            return Ok(status);
        }
        if !output.status.success() {
            return Err(PullError::Unreachable {
                endpoint: self.endpoint.to_owned(),
                reason: transfer::last_line(&output.stderr),
            });
        }
        if let Ok(headers) = fs::read_to_string(&headers)
            && let Some(commit) = commit(&headers)
        {
            self.revision = commit;
        }
        let target = to.join(file);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(PullError::io("make", parent))?;
        }
        // An empty file has no body to be written to disk.
        if !body.exists() {
            fs::write(&body, []).map_err(PullError::io("write", &body))?;
        }
        fs::rename(&body, &target).map_err(PullError::io("write", &target))?;
        self.done += fs::metadata(&target).map_or(0, |metadata| metadata.len());
        (self.progress)(self.done, None);
        Ok(status)
    }

    fn refused(&self, file: &str, status: u16) -> PullError {
        PullError::Refused {
            endpoint: self.endpoint.to_owned(),
            repository: self.repository.to_string(),
            file: file.to_owned(),
            status,
        }
    }
}

/// The value of the last header of this name: after redirects the file has several sets, and the last is the file's.
fn header<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    let values = headers.lines().filter_map(|line| line.split_once(':'));
    let mut values = values.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
    values.next_back().map(|(_, value)| value.trim())
}

pub(super) fn content_length(headers: &str) -> Option<u64> {
    header(headers, "content-length")?.parse().ok()
}

/// The commit that answered, as the hub reports it in `X-Repo-Commit`.
pub(super) fn commit(headers: &str) -> Option<String> {
    let commit = header(headers, "x-repo-commit")?;
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| commit.to_owned())
}
