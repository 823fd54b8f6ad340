//! Why a command ends without success: what happened, why, what to do next, and the exit code.

use toygres_models::Error;
use toygres_models::problem::Problem;

/// From here on, of 1, two names are alike.
const NEAR: f64 = 0.8;

/// Exit codes, as `toygres --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The reader of our output has gone away (`toygres list | head -1`): nothing to complain about.
    BrokenPipe = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    TimedOut = 4,
    Interrupted = 130,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) why: Vec<String>,
    pub(crate) next: Vec<String>,
    /// Whether the same request may succeed a little later.
    pub(crate) passing: bool,
    /// The server's word for it.
    pub(crate) code: Option<String>,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            why: Vec::new(),
            next: Vec::new(),
            passing: false,
            code: None,
        }
    }

    /// The end of a command that has nothing to say any more.
    pub(crate) fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Adds a cause. An empty one is left out.
    pub(crate) fn why(mut self, why: impl ToString) -> Self {
        self.why.push(why.to_string());
        self.why.retain(|why| !why.is_empty());
        self
    }

    /// Adds a command to try or a thing to do.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }
}

impl std::fmt::Display for Failure {
    /// What happened and why, in one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.why.iter().try_for_each(|why| write!(f, ": {why}"))
    }
}

impl From<Error> for Failure {
    /// The detail is shown too: these errors come from this machine's own server, to the person who starts it.
    fn from(error: Error) -> Self {
        let failure = Self::failed(format!("{} [{}]", error.message(), error.code())).why(error.detail());
        match error.next_step() {
            Some(hint) => failure.next(hint),
            None => failure,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let mut failure = Self::failed(format!("{} [{}]", problem.detail, problem.code));
        // The detail of a problem with one field or more lists them; here each has its line.
        if !problem.errors.is_empty() {
            failure.message = format!("the request is not valid [{}]", problem.code);
            failure.why = problem
                .errors
                .iter()
                .map(|e| format!("{}: {}", e.field, e.message))
                .collect();
        }
        if problem.status >= 500 {
            failure = failure.why(format!("trace {}", problem.trace_id));
        }
        failure.passing = problem.status >= 500 || problem.status == 429;
        failure.code = Some(problem.code);
        failure.next.extend(problem.hint);
        failure
    }
}

/// What somebody who wrote `text` most likely meant.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &&str| strsim::jaro_winkler(text, known);
    known
        .filter(|known| alike(known) >= NEAR)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
}
