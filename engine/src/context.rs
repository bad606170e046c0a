//! What every operation needs to know: which node, whose wish, and how long work is run.

use crate::{Clock, Host, Root, error::Result, live::Live, tool::Tools};
use std::path::PathBuf;
use std::sync::Arc;

/// Built by `main` and passed down; two of them can live in one process.
#[derive(Clone)]
pub struct Context {
    /// Where the node's files lie.
    pub root: Root,
    /// Facts of the machine.
    pub host: Arc<Host>,
    /// Tools of the machine.
    pub tools: Tools,
    /// The time.
    pub clock: Clock,
    /// The node's name.
    pub node: String,
    /// Who asks.
    pub caller: Caller,
    /// The address of the client, when one came over the network; for the log only.
    pub client: Option<String>,
    /// How tasks are run.
    pub mode: Mode,
    /// State in memory; only the privileged daemon has one.
    pub live: Option<Arc<Live>>,
    /// What the daemon gave to this worker beside its call; consoles only.
    pub handed: Option<Arc<crate::task::Handed>>,
}

impl Context {
    /// The context of a tool: `root@pam`, tasks in the foreground, root and facts from the environment.
    pub fn for_tool() -> Result<Self> {
        let root = Root::from_env();
        let host = Arc::new(Host::from_env()?);
        let node = host.node_name();
        Ok(Context {
            root,
            host,
            tools: Tools::of_machine(),
            clock: Clock::System,
            node,
            caller: Caller::root(),
            client: None,
            mode: Mode::Foreground,
            live: None,
            handed: None,
        })
    }

    /// The same context for another caller.
    #[must_use]
    pub fn with_caller(&self, caller: Caller) -> Self {
        Context { caller, ..self.clone() }
    }

    /// The program `pvedaemon`, which by another word is the helper of a guest.
    pub fn daemon_program(&self) -> Result<PathBuf> {
        Ok(match &self.mode {
            Mode::Daemon { worker } => worker.clone(),
            // All programs are installed in one directory.
            Mode::Worker(_) | Mode::Foreground => std::env::current_exe()?.with_file_name("pvedaemon"),
        })
    }

    /// Whether `name` means this node.
    pub fn is_local_node(&self, name: &str) -> bool {
        name == "localhost" || name == self.node
    }
}

/// How long work runs.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Each task becomes a process of this program.
    Daemon {
        /// The program, started as `PROGRAM worker` with the job on standard input.
        worker: PathBuf,
    },
    /// This process is the task with this UPID.
    Worker(crate::task::Upid),
    /// The task runs here, its log also goes to standard output (tools).
    Foreground,
}

/// An authenticated identity: `user@realm` or `user@realm!token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    id: String,
}

impl Caller {
    /// The identity of tools and of the node itself.
    pub fn root() -> Self {
        Caller { id: "root@pam".into() }
    }

    /// An identity that somebody has verified before.
    pub fn verified(id: impl Into<String>) -> Self {
        Caller { id: id.into() }
    }

    /// `user@realm` or `user@realm!token`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `user@realm`, without the token.
    pub fn user(&self) -> &str {
        self.id.split('!').next().unwrap_or(&self.id)
    }

    /// The token's name, if a token speaks.
    pub fn token(&self) -> Option<&str> {
        self.id.split_once('!').map(|(_, token)| token)
    }

    /// Only the text `root@pam` itself is root; its tokens are not. (PVE: RPCEnvironment, check_api2_permissions)
    pub fn is_root(&self) -> bool {
        self.id == "root@pam"
    }
}

#[cfg(test)]
impl Context {
    /// A node `pve1` below a directory of the test's own.
    pub fn for_test(root: &std::path::Path) -> Self {
        Context {
            root: Root::new(root),
            host: Arc::default(),
            tools: Tools::of_machine(),
            clock: Clock::System,
            node: "pve1".into(),
            caller: Caller::root(),
            client: None,
            mode: Mode::Foreground,
            live: None,
            handed: None,
        }
    }
}
