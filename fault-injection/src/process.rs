//! The processes of a browser: which is which, and signals to them.

use rustix::process::{Pid, Signal, kill_process};

use crate::faults::Role;

/// A browser's processes as the pool reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// The browser's main process.
    pub browser: Option<u32>,
    /// Its driver.
    pub driver: Option<u32>,
}

/// Why no process was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum FindError {
    #[error("the pool reports no process id of the {role}", role = role.name())]
    NotReported { role: Role },
    #[error("this browser has no {role} process of its own", role = role.name())]
    None { role: Role },
    #[error("process {pid} has ended")]
    Ended { pid: u32 },
}

/// A process and its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    arguments: Vec<String>,
}

/// The processes of a role, at least one. Browsers keep spare renderers, which cannot be distinguished from the page's, so all
/// renderers are returned.
///
/// # Errors
/// There is no such process.
pub fn find(roots: Roots, role: Role) -> Result<Vec<u32>, FindError> {
    let reported = |pid: Option<u32>| pid.ok_or(FindError::NotReported { role });
    match role {
        Role::Browser => Ok(vec![alive(reported(roots.browser)?)?]),
        Role::Driver => Ok(vec![alive(reported(roots.driver)?)?]),
        Role::Renderer | Role::Gpu => {
            let browser = alive(reported(roots.browser)?)?;
            let all = processes();
            let found: Vec<u32> = below(browser, &all)
                .filter(|process| is(process, role))
                .map(|process| process.pid)
                .collect();
            if found.is_empty() { Err(FindError::None { role }) } else { Ok(found) }
        }
    }
}

fn alive(pid: u32) -> Result<u32, FindError> {
    if read(pid).is_some() { Ok(pid) } else { Err(FindError::Ended { pid }) }
}

/// Sends a signal; it returns an error if the process has ended.
///
/// # Errors
/// The process has ended or belongs to another user.
pub fn send(pid: u32, signal: Signal) -> Result<(), FindError> {
    let ended = FindError::Ended { pid };
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ended.clone())?;
    kill_process(target, signal).map_err(|_| ended)
}

/// Whether a process plays a role, by its arguments. Chromium marks its processes with `--type=`, Firefox's end with the
/// kind of content process.
fn is(process: &Process, role: Role) -> bool {
    let has = |wanted: &str| process.arguments.iter().any(|argument| argument == wanted);
    let ends = |wanted: &str| process.arguments.last().is_some_and(|last| last == wanted);
    match role {
        Role::Renderer => {
            (has("--type=renderer") && !has("--extension-process"))
                || (has("-contentproc") && ends("tab"))
        }
        Role::Gpu => has("--type=gpu-process") || (has("-contentproc") && ends("gpu")),
        Role::Browser | Role::Driver => false,
    }
}

fn below(root: u32, all: &[Process]) -> impl Iterator<Item = &Process> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            all.iter().filter(|process| process.parent == parent).map(|process| process.pid),
        );
        next += 1;
    }
    all.iter().filter(move |process| process.pid != root && found.contains(&process.pid))
}

fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

/// An existing process that is not a zombie.
fn read(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may itself contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&line).into_owned();
    // Chromium's processes overwrite their arguments with one text in which blanks separate them.
    let arguments: Vec<String> =
        text.split(['\0', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Some(Process { pid, parent, arguments })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            // It may have ended already, which is fine.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that waits for its input's end and carries these words as arguments.
    fn process(arguments: &[&str]) -> Ended {
        let child = Command::new("sh")
            .args(["-c", "read line", "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        Ended(child)
    }

    #[test]
    fn roles_are_read_from_arguments() {
        let table: [(&[&str], Role, bool); 8] = [
            (&["chromium", "--type=renderer", "--lang=en"], Role::Renderer, true),
            (&["chromium", "--type=renderer", "--extension-process"], Role::Renderer, false),
            (&["chromium", "--type=gpu-process"], Role::Gpu, true),
            (&["chromium", "--type=utility"], Role::Renderer, false),
            (&["firefox", "-contentproc", "{1}", "3", "tab"], Role::Renderer, true),
            (&["firefox", "-contentproc", "{1}", "3", "socket"], Role::Renderer, false),
            (&["firefox", "-contentproc", "{1}", "3", "gpu"], Role::Gpu, true),
            (&["firefox", "tab"], Role::Renderer, false),
        ];
        for (arguments, role, want) in table {
            let arguments: Vec<String> = arguments.iter().map(|&part| part.to_owned()).collect();
            let process = Process { pid: 1, parent: 0, arguments };
            assert_eq!(is(&process, role), want, "{process:?} {role:?}");
        }
    }

    #[test]
    fn processes_below_the_browser_are_found_and_signalled() {
        let mut renderer = process(&["-contentproc", "tab"]);
        let own = Roots { browser: Some(std::process::id()), driver: Some(renderer.0.id()) };
        assert_eq!(find(own, Role::Renderer), Ok(vec![renderer.0.id()]));
        assert_eq!(find(own, Role::Driver), Ok(vec![renderer.0.id()]));
        assert_eq!(find(own, Role::Gpu), Err(FindError::None { role: Role::Gpu }));
        let nothing = Roots::default();
        assert_eq!(
            find(nothing, Role::Browser),
            Err(FindError::NotReported { role: Role::Browser })
        );

        send(renderer.0.id(), Signal::KILL).expect("there");
        let status = renderer.0.wait().expect("a child");
        assert!(!status.success(), "{status}");
        assert_eq!(find(own, Role::Renderer), Err(FindError::None { role: Role::Renderer }));
        let pid = renderer.0.id();
        assert_eq!(find(own, Role::Driver), Err(FindError::Ended { pid }));
    }
}
