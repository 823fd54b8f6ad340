//! What the process itself takes, from Linux's `/proc`.

use std::fs;

/// Clock ticks a second in `/proc`, fixed at 100 on Linux (`proc_pid_stat(5)`, `USER_HZ`).
const TICKS: f64 = 100.0;

/// Processor time of user and system, in seconds.
pub(crate) fn cpu_seconds() -> Option<f64> {
    cpu_of(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn cpu_of(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, which may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

/// Resident memory, in bytes.
pub(crate) fn resident_bytes() -> Option<f64> {
    resident_of(&fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// Open file descriptors.
pub(crate) fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(f64::from(u32::try_from(count).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whatever the program is called, what stands behind its name is read.
    fn is_read(text: &str) {
        let stat = format!("17 ({text}) S 1 17 17 0 -1 0 0 0 0 0 250 50 0 0");
        assert_eq!(cpu_of(&stat), Some(3.0), "{text:?}");
        let name = text.lines().next().unwrap_or_default();
        let status = format!("Name:\t{name}\nVmHWM:\t9 kB\nVmRSS:\t    4 kB\n");
        assert_eq!(resident_of(&status), Some(4096.0), "{text:?}");
        cpu_of(text);
        resident_of(text);
    }

    #[test]
    fn fuzz_numbers_of_the_process() {
        bolero::check!().for_each(|bytes: &[u8]| is_read(&String::from_utf8_lossy(bytes)));
    }

    proptest! {
        #[test]
        fn whatever_the_program_is_called_its_numbers_are_read(any in ".*", near in r"[() SR0-9]{0,15}") {
            for text in [any, near] {
                is_read(&text);
            }
        }
    }

    #[test]
    fn the_process_takes_something() {
        let before = cpu_seconds().unwrap();
        let mut sum = 0_u64;
        while cpu_seconds().unwrap() < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_bytes().unwrap() > 1_000_000.0);
        assert!(open_files().unwrap() >= 3.0);
    }
}
