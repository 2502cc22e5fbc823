//! The user's data folder.

use std::{env, path::PathBuf};

/// The folder for everything that belongs to the user and not to one project: `$FLOTILLA_HOME`, or `flotilla` in
/// `$XDG_DATA_HOME` (`~/.local/share`).
#[must_use]
pub fn home_dir() -> PathBuf {
    home_dir_from(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn home_dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(home) = var("FLOTILLA_HOME") {
        return home;
    }
    // The XDG specification requires relative paths to be ignored.
    let data_home = var("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data_home = data_home.or_else(|| Some(var("HOME")?.join(".local").join("share")));
    data_home.map_or_else(|| PathBuf::from(".flotilla"), |path| path.join("flotilla"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_data_folder_follows_the_environment() {
        let table: [(&[(&str, &str)], &str); 4] = [
            (&[("FLOTILLA_HOME", "/f"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")], "/f"),
            (&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")], "/x/flotilla"),
            (&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")], "/h/.local/share/flotilla"),
            (&[], ".flotilla"),
        ];
        for (vars, want) in table {
            let var = |name: &str| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(home_dir_from(var), Path::new(want), "{vars:?}");
        }
    }
}
