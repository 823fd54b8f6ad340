//! Which PostgreSQL server programs this machine has.

use super::fault::fault;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use toygres_models::operations::Reason;
use toygres_models::{PostgresVersion, Result};

/// The server programs (`initdb`, `postgres`) of this machine, by major version.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    directories: BTreeMap<PostgresVersion, PathBuf>,
}

impl Programs {
    /// Looks in `/usr/lib/postgresql/*/bin`, `<home>/postgresql/*/bin`, what `pg_config --bindir` says, and the
    /// directories of `search_path` (the value of the variable `PATH`, whose relative parts are left out). Of two of
    /// one version the first wins. Runs a program for each directory, which takes some milliseconds: for the start.
    #[must_use]
    pub fn find(home: &Path, search_path: &str) -> Self {
        let in_path: Vec<PathBuf> = std::env::split_paths(search_path)
            .filter(|directory| directory.is_absolute())
            .collect();
        let configured = in_path
            .iter()
            .find_map(|directory| output_of(&directory.join("pg_config"), "--bindir"))
            .map(|text| PathBuf::from(text.trim()));
        let usual = versions_below(Path::new("/usr/lib/postgresql"));
        let own = versions_below(&home.join("postgresql"));
        Self::in_directories(usual.into_iter().chain(own).chain(configured).chain(in_path))
    }

    /// Looks in these directories only.
    #[must_use]
    pub fn in_directories(candidates: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut directories = BTreeMap::new();
        for directory in candidates {
            if directory.join("initdb").is_file()
                && let Some(version) =
                    output_of(&directory.join("postgres"), "--version").and_then(|text| parse_version(&text))
            {
                directories.entry(version).or_insert(directory);
            }
        }
        Self { directories }
    }

    /// The versions, highest first.
    #[must_use]
    pub fn versions(&self) -> Vec<PostgresVersion> {
        self.directories.keys().rev().copied().collect()
    }

    /// The highest version.
    ///
    /// # Errors
    /// `Config` (`binaries_missing`) if there are no programs at all.
    pub fn newest(&self) -> Result<PostgresVersion> {
        self.directories.keys().next_back().copied().ok_or_else(|| {
            let message = "the PostgreSQL server programs are not installed on this machine";
            let hint = "install them (Debian, Ubuntu: apt-get install postgresql), then start the toygres server again";
            fault(Reason::BinariesMissing, message).hint(hint)
        })
    }

    /// The directory with the programs of a version.
    ///
    /// # Errors
    /// `Config`: `binaries_missing` if there are none at all, `version_unavailable` if there are others.
    pub fn directory(&self, version: PostgresVersion) -> Result<&Path> {
        self.newest()?;
        if let Some(directory) = self.directories.get(&version) {
            return Ok(directory);
        }
        let install = format!(
            "install it (Debian, Ubuntu: apt-get install postgresql-{version}), then start the toygres server again"
        );
        let there: Vec<String> = self.versions().iter().map(ToString::to_string).collect();
        Err(fault(
            Reason::VersionUnavailable,
            format!(
                "PostgreSQL {version} is not installed on this machine; there is {}",
                there.join(", ")
            ),
        )
        .hint(install))
    }
}

/// `<directory>/*/bin`, in the order of their names so that the result is always the same.
fn versions_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found
}

fn output_of(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())?
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(text: &str) -> Option<PostgresVersion> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

/// The locale for new databases: UTF-8 order by code point where the machine has it, else plain `C`.
pub(crate) fn locale() -> &'static str {
    let known = output_of(Path::new("/usr/bin/locale"), "-a").unwrap_or_default();
    let has_utf8 = known
        .lines()
        .any(|name| name.eq_ignore_ascii_case("C.utf8") || name.eq_ignore_ascii_case("C.UTF-8"));
    if has_utf8 { "C.UTF-8" } else { "C" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        let major = |text: &str| parse_version(text).map(PostgresVersion::major);
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 17\n"), Some(17));
        assert_eq!(major("something else 17"), None);
    }

    #[test]
    fn no_programs_and_an_unknown_version_are_different_failures() {
        let version: PostgresVersion = "99".parse().unwrap();
        let none = Programs::default().directory(version).unwrap_err();
        assert_eq!(none.code(), "binaries_missing");
        assert!(none.next_step().unwrap().contains("apt-get install postgresql"));
        let some = Programs::in_directories([toygres_testing::server_programs()]);
        let unknown = some.directory(version).unwrap_err();
        assert_eq!(unknown.code(), "version_unavailable");
        let there = some.versions()[0];
        assert!(
            unknown.message().contains(&format!("there is {there}")),
            "{unknown}"
        );
    }

    #[test]
    fn programs_are_found_in_the_usual_places_and_in_the_path() {
        let bin = toygres_testing::server_programs();
        let nowhere = Path::new("/nonexistent");
        let by_path = Programs::find(nowhere, bin.to_str().unwrap());
        assert!(!by_path.versions().is_empty());
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("postgresql/any")).unwrap();
        std::os::unix::fs::symlink(&bin, home.path().join("postgresql/any/bin")).unwrap();
        assert!(!Programs::find(home.path(), "").versions().is_empty());
    }

    #[test]
    fn fuzz_version() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let version = parse_version(&String::from_utf8_lossy(bytes));
            assert!(version.is_none_or(|version| (10..100).contains(&version.major())));
        });
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_program_says_is_a_version_or_none(any in ".*", rest in r"\PC{0,20}", major: u16) {
            parse_version(&any);
            let said = parse_version(&format!("postgres (PostgreSQL) {major} {rest}"));
            proptest::prop_assert_eq!(said.map(PostgresVersion::major), Some(major).filter(|it| (10..100).contains(it)));
        }
    }
}
