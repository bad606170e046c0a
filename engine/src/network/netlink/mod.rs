//! The kernel's routing socket: one connection, used synchronously.
//!
//! Owns the async part (netlink-proto on a runtime of one thread, driven only while a call waits) and the count of
//! requests that change something. Knows nothing of configuration. All names and addresses are the caller's.

mod actual;
mod bond;
mod dump;
mod execute;
mod vlans;

pub use dump::{controller, index_of, kind, name, uplinks};
pub use vlans::PortVlans;

use crate::{Error, Result, error::ResultExt};
use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::{SocketAddr, protocols::NETLINK_ROUTE};
use std::cell::Cell;
use std::io;
use std::time::Duration;

/// The kernel answers at once; one that does not is broken, and a caller must not hang on it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel says of an address and of a route that are not there.
const ABSENT_ADDRESS: i32 = libc::EADDRNOTAVAIL;
const ABSENT_ROUTE: i32 = libc::ESRCH;

/// An open routing socket of this process's network namespace.
pub struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: ConnectionHandle<RouteNetlinkMessage>,
    writes: Cell<usize>,
}

/// How a request treats an object that is there or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It must be there (`set`, `delete`).
    Existing,
    /// It must not be there afterwards; the kernel may have removed it with something else.
    Gone,
    /// It must not be there.
    New,
    /// Made, or replaced when it is there.
    NewOrReplace,
    /// Added beside others of its kind.
    Append,
}

impl Netlink {
    /// Opens the socket.
    pub fn open() -> Result<Self> {
        let place = || "unable to open the kernel's routing socket";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(place)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = netlink_proto::new_connection(NETLINK_ROUTE).context(place)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Netlink { runtime, handle, writes: Cell::new(0) })
    }

    /// How many requests have changed something.
    pub fn writes(&self) -> usize {
        self.writes.get()
    }

    /// All answers to a question about everything of a kind.
    pub fn dump(&self, question: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.request(question, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Changes something. The kernel's refusal is the error.
    pub fn write(&self, message: RouteNetlinkMessage, how: Write) -> Result<()> {
        let flags = match how {
            Write::Existing | Write::Gone => 0,
            Write::New => NLM_F_CREATE | NLM_F_EXCL,
            Write::NewOrReplace => NLM_F_CREATE | NLM_F_REPLACE,
            Write::Append => NLM_F_CREATE | NLM_F_APPEND,
        };
        self.writes.set(self.writes.get() + 1);
        match self.ask(message, NLM_F_REQUEST | NLM_F_ACK | flags)? {
            Err(error) if how == Write::Gone && matches!(error.raw_os_error(), Some(ABSENT_ADDRESS | ABSENT_ROUTE)) => {
                Ok(())
            }
            answer => answer.map(drop).map_err(refusal),
        }
    }

    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.ask(message, flags)?.map_err(refusal)
    }

    /// The answers, or the kernel's refusal.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> Result<io::Result<Vec<RouteNetlinkMessage>>> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        let mut answers = self
            .handle
            .request(message, SocketAddr::new(0, 0))
            .map_err(|error| Error::new(format!("the kernel's routing socket has closed: {error}")))?;
        let collect = async {
            let mut found = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    _ => {}
                }
            }
            Ok(found)
        };
        let late = |_| Error::new("the kernel's routing socket does not answer");
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, collect).await }).map_err(late)
    }
}

/// The kernel's reason as `ip` prints it.
fn refusal(error: io::Error) -> Error {
    Error::from(error)
}
