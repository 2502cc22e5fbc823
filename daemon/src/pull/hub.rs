//! A model from a Hugging Face hub, file by file through curl.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::PullError;
use super::folder::{INDEX, WEIGHTS};
use super::transfer::{self, Program};

/// The hub that is used unless `HF_ENDPOINT` names another.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// The owner of models that are named without one.
const DEFAULT_OWNER: &str = "sentence-transformers";

/// A hub that has not answered by then counts as unreachable.
const CONNECT_TIMEOUT_S: &str = "5";

/// A transfer slower than a kilobyte a second for this long is aborted.
const STALL_TIMEOUT_S: &str = "30";

/// The list of sentence-transformers' modules.
pub(super) const MODULES: &str = "modules.json";

/// What is fetched where the repository has it, beside the weights. The importer decides which of them it needs.
const DESCRIPTIONS: [&str; 6] = [
    "tokenizer.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Most files that a description names.
const NAMED_MAX: usize = 1024;

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
    fetch_from(&endpoint, repository, to, scratch, progress).await
}

/// The same, from a hub at this address.
pub(super) async fn fetch_from(
    endpoint: &str,
    repository: &Repository,
    to: &Path,
    scratch: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<(), PullError> {
    let endpoint = endpoint.trim_end_matches('/');
    let mut hub =
        Hub { endpoint, repository, revision: "main".to_owned(), scratch, progress, done: 0 };
    let mut encoder = String::new();
    let mut folders = Vec::new();
    if hub.optional(MODULES, to).await? {
        for Module { path, kind } in hub.described::<Vec<Module>>(MODULES, to)? {
            let is_encoder = kind.ends_with(".Transformer");
            match path.as_str() {
                "" => {}
                path if is_encoder => encoder = format!("{}/", hub.inside(MODULES, path)?),
                path => folders.push(hub.inside(MODULES, path)?),
            }
        }
    } else {
        folders.push("1_Pooling".to_owned());
    }
    hub.optional(&format!("{encoder}config.json"), to).await?;
    hub.weights(&encoder, to).await?;
    for description in DESCRIPTIONS {
        hub.optional(&format!("{encoder}{description}"), to).await?;
    }
    for folder in folders.iter().take(NAMED_MAX) {
        hub.optional(&format!("{folder}/config.json"), to).await?;
        hub.optional(&format!("{folder}/model.safetensors"), to).await?;
    }
    Ok(())
}

/// An entry of `modules.json`.
#[derive(serde::Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The files that tensors are in.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
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
    /// Fetches the first kind of weights that there is in a folder, `""` or one that ends in `/`.
    async fn weights(&mut self, folder: &str, to: &Path) -> Result<(), PullError> {
        let mut status = 404;
        for weights in WEIGHTS {
            let file = format!("{folder}{weights}");
            status = self.fetch(&file, to).await?;
            if status == 404 {
                continue;
            }
            if status != 200 {
                return Err(self.refused(&file, status));
            }
            let mut parts = BTreeSet::new();
            if weights == INDEX {
                let Index { weight_map } = self.described(&file, to)?;
                for part in weight_map.into_values() {
                    parts.insert(format!("{folder}{}", self.inside(&file, &part)?));
                }
                if parts.len() > NAMED_MAX {
                    let reason =
                        format!("it names {} files, the limit is {NAMED_MAX}", parts.len());
                    return Err(self.unusable(&file, reason));
                }
            }
            for part in &parts {
                let status = self.fetch(part, to).await?;
                if status != 200 {
                    return Err(self.refused(part, status));
                }
            }
            // Exporters put the data of large models beside the file, under these names.
            if weights.ends_with(".onnx") {
                for data in ["_data", ".data"] {
                    self.optional(&format!("{file}{data}"), to).await?;
                }
            }
            return Ok(());
        }
        Err(self.refused(&format!("{folder}{}", WEIGHTS[0]), status))
    }

    /// Fetches a file if there is one.
    async fn optional(&mut self, file: &str, to: &Path) -> Result<bool, PullError> {
        match self.fetch(file, to).await? {
            200 => Ok(true),
            404 => Ok(false),
            status => Err(self.refused(file, status)),
        }
    }

    /// What a file that was fetched says.
    fn described<T: serde::de::DeserializeOwned>(
        &self,
        file: &str,
        to: &Path,
    ) -> Result<T, PullError> {
        let path = to.join(file);
        let bytes = fs::read(&path).map_err(PullError::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|error| self.unusable(file, error.to_string()))
    }

    /// A path that a file names, if it can neither leave the folder nor change the address.
    fn inside(&self, file: &str, path: &str) -> Result<String, PullError> {
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(known)
        };
        if path.len() > 200 || !path.split('/').all(plain) {
            return Err(self.unusable(file, format!("it names the file {path:?}")));
        }
        Ok(path.to_owned())
    }

    fn unusable(&self, file: &str, reason: String) -> PullError {
        let (repository, file) = (self.repository.to_string(), file.to_owned());
        PullError::Description { repository, file, reason }
    }

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
