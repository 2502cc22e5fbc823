//! Requests that cannot be answered: each gets a status, OpenAI's error format, the cause and the remedy, and affects no
//! other request.

use flotilla_tests::{
    daemon::Daemon,
    http::Answer,
    model::{self, MINILM},
};
use serde_json::{Value, json};

/// A body, and the expected result: status, `error.code`, `error.param`, and parts of the message.
struct Refusal {
    body: Value,
    status: u16,
    code: &'static str,
    param: Option<&'static str>,
    says: &'static [&'static str],
}

fn refusals() -> Vec<Refusal> {
    let input = Some("input");
    let refusal = |input: Value, status, code, param, says| Refusal {
        body: json!({ "model": MINILM, "input": input }),
        status,
        code,
        param,
        says,
    };
    let with = |name: &str, value: Value, code, param, says| {
        let mut body = json!({ "model": MINILM, "input": "x" });
        body[name] = value;
        Refusal { body, status: 400, code, param: Some(param), says }
    };
    let long = "word ".repeat(10_000);
    vec![
        refusal(json!(""), 400, "empty_input", input, &["input 0 is empty", "at least one"]),
        refusal(json!(["fine", ""]), 400, "empty_input", input, &["input 1 is empty"]),
        refusal(json!([]), 400, "invalid_input", input, &["empty list", "at least one"]),
        refusal(json!([[]]), 400, "empty_input", input, &["input 0 is empty", "token"]),
        refusal(
            json!(long),
            400,
            "context_length_exceeded",
            input,
            &["10002 tokens", "at most", "shorten"],
        ),
        refusal(
            json!(vec![101; 10_000]),
            400,
            "context_length_exceeded",
            input,
            &["10000 tokens", "at most"],
        ),
        refusal(json!(42), 400, "invalid_input", input, &["must be a string", "42"]),
        refusal(json!({ "text": "x" }), 400, "invalid_input", input, &["must be a string"]),
        refusal(json!(["x", 3]), 400, "invalid_input", input, &["list of strings", "3"]),
        refusal(json!([1, "x"]), 400, "invalid_input", input, &["list of token ids"]),
        refusal(json!([-1]), 400, "invalid_input", input, &["token ids"]),
        refusal(json!([1.5]), 400, "invalid_input", input, &["token ids"]),
        refusal(
            json!([101, 999_999, 102]),
            400,
            "invalid_token",
            input,
            &["999999", "vocabulary", "30522"],
        ),
        refusal(json!(vec!["x"; 2049]), 400, "invalid_input", input, &["2049", "2048", "parts"]),
        refusal(Value::Null, 400, "missing_input", input, &["missing"]),
        Refusal {
            body: json!({ "model": MINILM }),
            status: 400,
            code: "missing_input",
            param: input,
            says: &["missing"],
        },
        Refusal {
            body: json!({ "input": "x" }),
            status: 400,
            code: "missing_model",
            param: Some("model"),
            says: &["missing"],
        },
        with("model", json!(7), "invalid_model", "model", &["string", "7"]),
        Refusal {
            body: json!({ "model": "no-such-model", "input": "x" }),
            status: 404,
            code: "model_not_found",
            param: None,
            says: &["no-such-model", "served are", MINILM],
        },
        with(
            "encoding_format",
            json!("hex"),
            "invalid_encoding_format",
            "encoding_format",
            &["float", "base64", "hex"],
        ),
        with("dimensions", json!(17), "unsupported_dimensions", "dimensions", &["384", "17"]),
        with(
            "truncate_prompt_tokens",
            json!("all"),
            "invalid_truncation",
            "truncate_prompt_tokens",
            &["all"],
        ),
    ]
}

#[test]
fn every_refusal_names_cause_and_remedy() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &minilm]);
    let good = daemon.embed(MINILM, "a").ok();
    for Refusal { body, status, code, param, says } in refusals() {
        let shown: String = body.to_string().chars().take(100).collect();
        check(&shown, &daemon.post("/v1/embeddings", &body), status, code, says);
        let got = daemon.post("/v1/embeddings", &body).json();
        assert_eq!(got["error"]["param"], json!(param), "{shown}");
    }
    for body in ["", "{", "null", "[1]", "{\"model\": \"x\", \"input\": \"\\ud800\"}", "\u{feff}{}"]
    {
        let answer = daemon.request("POST", "/v1/embeddings", &[], Some(body.as_bytes()));
        check(body, &answer, 400, "invalid_json", &["JSON"]);
    }
    let answer = daemon.request("POST", "/v1/embeddings", &[], Some(b"{\"input\": \"\xff\xfe\"}"));
    check("bytes that are no text", &answer, 400, "invalid_json", &["JSON"]);
    let deep = "[".repeat(100_000);
    let answer = daemon.request("POST", "/v1/embeddings", &[], Some(deep.as_bytes()));
    check("deep nesting", &answer, 400, "invalid_json", &["JSON"]);
    let large = vec![b' '; (16 << 20) + 1];
    let answer = daemon.request("POST", "/v1/embeddings", &[], Some(&large));
    check("a large body", &answer, 413, "body_too_large", &["16777216 bytes", "fewer"]);

    // A text of spaces is valid, as in OpenAI's API, and does not make its list fail.
    let spaces = daemon.embed(MINILM, json!(["a", " \n"])).ok();
    let [first, second] = &model::embeddings(&spaces)[..] else { panic!("two embeddings") };
    assert!(model::difference(first, &model::embeddings(&good)[0]) < 1e-5);
    assert!(model::difference(first, second) > 1e-2);
    assert_eq!(spaces["usage"]["prompt_tokens"], 5);

    // Cut instead of refused, if the client requests it.
    let cut =
        json!({ "model": MINILM, "input": "word ".repeat(10_000), "truncate_prompt_tokens": 16 });
    assert_eq!(daemon.post("/v1/embeddings", &cut).ok()["usage"]["prompt_tokens"], 16);

    // Nothing was affected: the same answer as before, by the same browser.
    let again = daemon.embed(MINILM, "a").ok();
    assert_eq!(good["data"], again["data"]);
    let browser = |answer: &Value| answer["flotilla"]["runs"][0]["browser_id"].clone();
    assert_eq!(browser(&good), browser(&again));
}

/// The most memory that a process has held, in bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kilobytes << 10
}

#[test]
fn a_large_body_takes_little_memory() {
    const SIZE: usize = 15 << 20;
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &minilm]);
    let words = "lorem ipsum dolor ";
    let many = |input: Value| json!({ "model": MINILM, "input": input });
    let cut = |input: Value| json!({ "model": MINILM, "input": input, "truncate_prompt_tokens": 16, "ignored": [] });
    let before = peak_bytes(daemon.pid());
    let answer = daemon.post("/v1/embeddings", &cut(json!(words.repeat(SIZE / words.len())))).ok();
    assert_eq!(answer["usage"]["prompt_tokens"], 16);
    // Only the beginning counts.
    let short = daemon.post("/v1/embeddings", &cut(json!(words.repeat(100)))).ok();
    assert_eq!(answer["data"], short["data"]);
    for (what, body, code, says) in [
        (
            "a text",
            many(json!(words.repeat(SIZE / words.len()))),
            "context_length_exceeded",
            &["more than", "at most 256"][..],
        ),
        (
            "a word without an end",
            cut(json!("x".repeat(SIZE))),
            "context_length_exceeded",
            &["bytes", "shorten"],
        ),
        (
            "token ids",
            many(json!(vec![101; SIZE / 4])),
            "context_length_exceeded",
            &["at most 256"],
        ),
        (
            "lists of texts",
            many(json!(vec![vec!["x"; 8]; 3])),
            "invalid_input",
            &["list of token ids"],
        ),
        (
            "another list",
            json!({ "model": vec![1; SIZE / 2], "input": "x" }),
            "invalid_model",
            &["a list"],
        ),
    ] {
        check(what, &daemon.post("/v1/embeddings", &body), 400, code, says);
    }
    let taken = peak_bytes(daemon.pid()) - before;
    assert!(taken < 300 << 20, "{} MiB more than before", taken >> 20);
}

fn check(what: &str, answer: &Answer, status: u16, code: &str, says: &[&str]) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
    let message = answer.error();
    assert_eq!(answer.json()["error"]["code"], code, "{what}: {message}");
    for part in says {
        assert!(message.contains(part), "{what}: {message:?} does not say {part:?}");
    }
}

#[test]
fn routes_methods_and_origins_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let pool = daemon.get("/api/pool").ok();
    assert_eq!(pool["phase"], "serving");

    check("route", &daemon.get("/v1/no-such-route"), 404, "not_found", &["/v1/no-such-route"]);
    check("root", &daemon.get("/"), 404, "not_found", &["/"]);
    check("model", &daemon.get("/v1/models/nobody"), 404, "model_not_found", &["nobody"]);
    check(
        "method",
        &daemon.get("/v1/embeddings"),
        405,
        "method_not_allowed",
        &["GET", "/v1/embeddings"],
    );
    let delete = daemon.request("DELETE", "/v1/models", &[], None);
    check("method", &delete, 405, "method_not_allowed", &["DELETE"]);

    let foreign = [("origin", "http://evil.example")];
    let body = json!({ "model": "small", "input": [1, 2, 3] }).to_string();
    for (path, body) in
        [("/v1/embeddings", Some(body.as_bytes())), ("/v1/models", None), ("/healthz", None)]
    {
        let method = if body.is_some() { "POST" } else { "GET" };
        let answer = daemon.request(method, path, &foreign, body);
        check("Origin", &answer, 403, "forbidden", &["evil.example"]);
        let answer = daemon.request(method, path, &[("host", "evil.example:80")], body);
        check("Host", &answer, 403, "forbidden", &["evil.example", daemon.address()]);
        let own = format!("http://{}", daemon.address());
        assert_eq!(daemon.request(method, path, &[("origin", &own)], body).status, 200);
    }

    let blob = format!("/blobs/{}", "0".repeat(64));
    check("blob", &daemon.get(&blob), 404, "not_found", &["blob"]);
    check("blob's name", &daemon.get("/blobs/xyz"), 404, "not_found", &["xyz"]);
    for path in [
        "/blobs/..%2f..%2fetc%2fpasswd",
        "/runner/..%2findex.html",
        "/extra/..%2f..%2fetc%2fpasswd",
    ] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 200);
}

#[test]
fn blobs_are_served_in_parts() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small");
    let catalog = flotilla::catalog::Catalog::open(std::slice::from_ref(&small));
    let (id, bytes) =
        catalog.models[0].blobs.iter().max_by_key(|(_, blob)| blob.bytes()).expect("weights");
    let bytes = bytes.read(0, bytes.bytes() as usize).expect("weights");
    let daemon =
        Daemon::ready(&["--simulate", "chrome=1", "--models", &small.display().to_string()]);
    let path = format!("/blobs/{}", id.to_hex());
    let get = |range: &str| daemon.request("GET", &path, &[("range", range)], None);
    let whole = daemon.get(&path);
    assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
    assert_eq!(whole.header("content-length"), Some(bytes.len().to_string().as_str()));
    let length = bytes.len();
    for (range, want) in [
        ("bytes=0-9", format!("bytes 0-9/{length}")),
        ("bytes=-16", format!("bytes {}-{}/{length}", length - 16, length - 1)),
        ("bytes=8-", format!("bytes 8-{}/{length}", length - 1)),
    ] {
        let part = get(range);
        assert_eq!(
            (part.status, part.header("content-range")),
            (206, Some(want.as_str())),
            "{range}"
        );
    }
    for range in [format!("bytes={length}-"), "bytes=9-3".to_owned(), "lines=1-2".to_owned()] {
        let answer = get(&range);
        check(&range, &answer, 416, "bad_range", &[&length.to_string(), &range]);
    }
}
