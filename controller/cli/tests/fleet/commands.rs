//! What `fairlead status` and `fairlead explain` say.

use anyhow::ensure;
use fairlead_tests::{fleet::Fleet, wait};
use serde_json::Value;

use crate::{Stage, program, same};

pub(crate) async fn status_and_explain_tell_people_and_programs_the_same(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let count = fleet.ready.members.len();
    let text = wait::until("healthy members", async || {
        let text = fleet.must(&["status"]).await?;
        let healthy = text.matches("heartbeat and API server are well").count();
        Ok(if healthy == count {
            Ok(text)
        } else {
            Err(text)
        })
    })
    .await?;
    for said in [
        "MEMBER",
        "member-1",
        "SERVICE demo/echo",
        &fleet.ready.endpoint.tcp.to_string(),
        &fleet.ready.endpoint.udp.to_string(),
    ] {
        ensure!(text.contains(said), "{said}: {text}");
    }
    let json = fleet.must(&["status", "-o", "json"]).await?;
    let json: Value = serde_json::from_str(&json)?;
    same!(json["members"].as_array().map(Vec::len), Some(count));
    let parts = &json["services"][0]["status"]["members"];
    same!(parts[0]["member"], "member-1");
    same!(parts[0]["configuredWeight"], 100);
    let yaml = fleet.must(&["status", "-o", "yaml"]).await?;
    ensure!(yaml.contains("configuredWeight: 100"), "{yaml}");

    let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
    ensure!(
        text.contains("EXPORTS") && text.contains("member-2"),
        "{text}"
    );
    let one = ["explain", "service", "demo/echo", "--from", "member-1"];
    let text = fleet.must(&one).await?;
    ensure!(!text.contains("member-2"), "{text}");
    Ok(())
}

pub(crate) async fn a_question_about_nothing_says_what_to_do() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "1"]).await?;
    let questions: [(&[&str], &str); 2] = [
        (
            &["explain", "service", "demo/nothing"],
            "no member exports demo/nothing; make a ServiceExport of that name in one",
        ),
        (
            &["explain", "service", "demo/echo", "--from", "member-9"],
            "there is no member member-9",
        ),
    ];
    for (question, answer) in questions {
        let refused = fleet.fairlead(question).await?;
        same!(refused.code, Some(1));
        ensure!(refused.stderr.contains(answer), "{refused:?}");
    }
    let mistakes: [(&[&str], &str); 7] = [
        (&["status", "--nonsense"], "--nonsense"),
        (&["explain", "service", "echo"], "write NAMESPACE/NAME"),
        (&["explain", "service", "a/b/c"], "write NAMESPACE/NAME"),
        (&["join"], "--invitation <LINE>"),
        (&["join", "eu-1"], "--hub-address <HOST:PORT>"),
        (
            &["join", "eu-1", "--hub-address", "hub"],
            "such as hub.example:15010",
        ),
        (
            &["leave", "eu-1", "--timeout", "5"],
            "write 90s, 30m or 24h",
        ),
    ];
    for (mistake, answer) in mistakes {
        let refused = fleet.fairlead(mistake).await?;
        same!(refused.code, Some(2));
        ensure!(refused.stderr.contains(answer), "{refused:?}");
    }
    let nowhere = ["status", "--kubeconfig", "/nowhere"];
    let nowhere = fleet.fairlead(&nowhere).await?;
    same!(nowhere.code, Some(1));
    let said = "fairlead: the hub cannot be used: /nowhere is no kubeconfig: No such file or directory (os error 2)\n";
    same!(nowhere.stderr, said);
    // A cluster that is no hub.
    let bare = fairlead_apiserver::ApiServer::builder().build().await?;
    let addr = ([127, 0, 0, 1], 0).into();
    let listener = bare.serve(addr, fairlead_apiserver::Security::Tls).await?;
    let file = fleet.folder().join("bare.kubeconfig");
    std::fs::write(&file, listener.kubeconfig())?;
    let file = file.display().to_string();
    for command in [&["status"][..], &["leave", "eu-1"], &["drain", "eu-1"]] {
        let command: Vec<&str> = command
            .iter()
            .copied()
            .chain(["--kubeconfig", &file])
            .collect();
        let refused = fleet.fairlead(&command).await?;
        same!(refused.code, Some(1));
        ensure!(refused.stderr.contains("is no hub"), "{refused:?}");
        ensure!(
            refused.stderr.contains("fairlead crds | kubectl"),
            "{refused:?}"
        );
    }
    Ok(())
}
