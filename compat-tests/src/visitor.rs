//! Somebody who works inside a VM through its agent, by the interface alone.

use crate::{Client, wait_for};
use serde_json::{Value, json};

/// A VM whose agent answers.
pub struct Visitor<'a> {
    client: &'a Client,
    path: String,
}

impl<'a> Visitor<'a> {
    /// Waits until the agent of a VM answers; `path` is that of the VM.
    pub fn arrive(client: &'a Client, path: &str, seconds: u64) -> Self {
        wait_for(&format!("the agent of {path}"), seconds, || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            (client.post(&format!("{path}/agent/ping"), &[]).status == 200).then_some(())
        });
        Visitor { client, path: path.to_owned() }
    }

    /// Runs a shell script as root; gives back how it ended.
    #[track_caller]
    pub fn status(&self, script: &str, input: Option<&str>) -> Value {
        let mut body = json!({"command": ["sh", "-c", script]});
        if let Some(input) = input {
            body["input-data"] = input.into();
        }
        let kind = [("Content-Type", "application/json")];
        let body = body.to_string();
        let started = self.client.send("POST", &format!("/api2/json{}/agent/exec", self.path), &kind, body.as_bytes());
        let pid = started.data()["pid"].clone();
        wait_for(script, 300, || {
            // Each look costs the emulated machine some work.
            std::thread::sleep(std::time::Duration::from_millis(200));
            let status = self.client.get(&format!("{}/agent/exec-status?pid={pid}", self.path)).data();
            (status["exited"] == 1).then_some(status)
        })
    }

    /// Runs a shell script that must succeed; gives back what it prints, without the last line's end.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let status = self.status(script, None);
        assert_eq!(status["exitcode"], 0, "{script}: {status}");
        status["out-data"].as_str().unwrap_or_default().trim_end().to_owned()
    }

    /// Waits until a shell script prints a text, however it ends.
    #[track_caller]
    pub fn wait_for(&self, script: &str, text: &str) {
        wait_for(&format!("{text:?} of {script}"), 120, || {
            self.status(script, None)["out-data"].as_str()?.contains(text).then_some(())
        });
    }

    /// The answer of a command of the agent that only reads.
    #[track_caller]
    pub fn ask(&self, command: &str) -> Value {
        self.client.get(&format!("{}/agent/{command}", self.path)).data()["result"].clone()
    }

    /// The answer of a command of the agent that does something.
    #[track_caller]
    pub fn tell(&self, command: &str) -> Value {
        self.client.post(&format!("{}/agent/{command}", self.path), &[]).data()["result"].clone()
    }
}
