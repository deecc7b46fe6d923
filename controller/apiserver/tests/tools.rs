//! kubectl and the Python client against the HTTPS listener, as people run them.
//!
//! Each test needs its tool (`kubectl` 1.37 on the path, Python's `kubernetes` package) and says so
//! where it is missing.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use fairlead_apiserver::{ApiServer, Handle, Security};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const WIDGETS: &str = include_str!("tools/widgets.yaml");
const PYTHON: &str = include_str!("tools/client.py");

/// A server, and a folder with its kubeconfig and manifests.
struct Desk {
    folder: tempfile::TempDir,
    _server: ApiServer,
    _listener: Handle,
}

impl Desk {
    async fn new() -> Self {
        let server = ApiServer::builder().build().await.unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = server.serve(addr, Security::Tls).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), listener.kubeconfig()).unwrap();
        Self {
            folder,
            _server: server,
            _listener: listener,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs kubectl with words split at spaces; gives what it prints.
    async fn kubectl(&self, line: &str) -> String {
        let output = self.run(line).await;
        let (out, err) = texts(&output);
        assert!(output.status.success(), "kubectl {line}\n{out}{err}");
        out
    }

    /// Runs kubectl, which must fail; gives what it complains of.
    async fn refused(&self, line: &str) -> String {
        let output = self.run(line).await;
        let (out, err) = texts(&output);
        assert!(
            !output.status.success(),
            "kubectl {line} was to fail\n{out}"
        );
        format!("{out}{err}")
    }

    async fn run(&self, line: &str) -> Output {
        self.command("kubectl")
            .args(line.split(' '))
            .output()
            .await
            .unwrap()
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Is the tool here, in a version that the server is made for?
async fn has(program: &str, arguments: &[&str], wanted: &str) -> bool {
    let output = Command::new(program).args(arguments).output().await;
    let found = output.is_ok_and(|output| texts(&output).0.contains(wanted));
    if !found {
        eprintln!("skipped: there is no {program} that says {wanted:?} to {arguments:?}");
    }
    found
}

async fn has_kubectl() -> bool {
    has("kubectl", &["version", "--client"], "v1.37").await
}

fn config_map(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: one}}\ndata: {{key: {value:?}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_compares_and_deletes() {
    if !has_kubectl().await {
        return;
    }
    let desk = Desk::new().await;
    let (first, second) = (
        desk.file("a.yaml", &config_map("1")),
        desk.file("b.yaml", &config_map("2")),
    );
    assert_eq!(
        desk.kubectl(&format!("apply -f {first}")).await,
        "configmap/one created\n"
    );
    assert_eq!(
        desk.kubectl(&format!("apply -f {first}")).await,
        "configmap/one unchanged\n"
    );
    assert_eq!(desk.kubectl(&format!("diff -f {first}")).await, "");
    let difference = desk.refused(&format!("diff -f {second}")).await;
    assert!(
        difference.contains("-  key: \"1\"\n+  key: \"2\"\n"),
        "{difference}"
    );
    assert_eq!(
        desk.kubectl(&format!("apply -f {second}")).await,
        "configmap/one configured\n"
    );
    let apply = "apply --server-side --field-manager";
    let conflict = desk.refused(&format!("{apply} other -f {first}")).await;
    assert!(
        conflict.contains("conflict with \"kubectl-client-side-apply\""),
        "{conflict}"
    );
    let forced = desk
        .kubectl(&format!("{apply} other --force-conflicts -f {first}"))
        .await;
    assert_eq!(forced, "configmap/one serverside-applied\n");
    assert_eq!(
        desk.kubectl("get cm one -o jsonpath={.data.key}").await,
        "1"
    );
    let deleted = desk.kubectl(&format!("delete -f {first}")).await;
    assert!(
        deleted.starts_with("configmap \"one\" deleted"),
        "{deleted}"
    );
    let gone = desk.refused("get cm one").await;
    assert!(
        gone.contains("(NotFound): configmaps \"one\" not found"),
        "{gone}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_creates_changes_and_shows_built_in_kinds() {
    if !has_kubectl().await {
        return;
    }
    let desk = Desk::new().await;
    desk.kubectl("create namespace blue").await;
    desk.kubectl("create deployment web --image=nginx --replicas=2 -n blue")
        .await;
    desk.kubectl("scale deployment web --replicas=3 -n blue")
        .await;
    let shown = desk.kubectl("get deployments -n blue --no-headers").await;
    assert!(shown.starts_with("web   0/3 "), "{shown}");
    desk.kubectl("expose deployment web --port=80 -n blue")
        .await;
    let service = desk
        .kubectl("get service web -n blue -o jsonpath={.spec.type}/{.spec.clusterIP}")
        .await;
    assert!(service.starts_with("ClusterIP/10.96."), "{service}");
    desk.kubectl("create configmap one --from-literal=a=b -n blue")
        .await;
    desk.kubectl("label configmap one tier=front -n blue").await;
    desk.kubectl("annotate configmap one note=x -n blue").await;
    desk.kubectl("patch configmap one -n blue -p {\"data\":{\"c\":\"d\"}}")
        .await;
    desk.kubectl(
        "patch configmap one -n blue --type=json -p [{\"op\":\"remove\",\"path\":\"/data/a\"}]",
    )
    .await;
    let data = desk
        .kubectl("get configmaps -n blue -l tier=front -o jsonpath={.items[*].data}")
        .await;
    assert_eq!(data, "{\"c\":\"d\"}");
    let names = desk
        .kubectl("get configmaps -n blue --field-selector metadata.name=one -o name")
        .await;
    assert_eq!(names, "configmap/one\n");
    let columns = desk.kubectl("get namespaces").await;
    assert!(
        columns.starts_with("NAME              STATUS   AGE\nblue              Active"),
        "{columns}"
    );
    assert!(
        desk.kubectl("describe service web -n blue")
            .await
            .contains("Selector:                 app=web")
    );
    assert!(
        desk.kubectl("explain deployment.spec.replicas")
            .await
            .contains("FIELD: replicas <integer>")
    );
    let resources = desk
        .kubectl("api-resources --api-group=apps --no-headers")
        .await;
    assert_eq!(resources.lines().count(), 5, "{resources}");
    desk.kubectl("delete namespace blue --timeout=30s").await;
    assert!(
        desk.refused("get namespace blue")
            .await
            .contains("NotFound")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_custom_kinds() {
    if !has_kubectl().await {
        return;
    }
    let desk = Desk::new().await;
    let definition = desk.file("widgets.yaml", WIDGETS);
    desk.kubectl(&format!("apply -f {definition}")).await;
    desk.kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=10s")
        .await;
    let widget = |spec: &str| {
        format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: w}}\nspec: {spec}\n")
    };
    let good = desk.file("good.yaml", &widget("{size: 3}"));
    let small = desk.file("small.yaml", &widget("{size: 0}"));
    let unknown = desk.file("unknown.yaml", &widget("{size: 3, colour: red}"));
    assert_eq!(
        desk.kubectl(&format!("apply -f {good}")).await,
        "widget.example.com/w created\n"
    );
    let columns = desk.kubectl("get wd").await;
    assert_eq!(columns, "NAME   SIZE\nw      3\n");
    desk.kubectl("wait --for=jsonpath={.spec.size}=3 wd/w --timeout=10s")
        .await;
    let strict = desk.refused(&format!("apply -f {unknown}")).await;
    assert!(strict.contains("unknown field \"spec.colour\""), "{strict}");
    let invalid = desk
        .refused(&format!("apply --validate=false -f {small}"))
        .await;
    assert!(
        invalid.contains("The Widget \"w\" is invalid: spec.size: Invalid value: 0"),
        "{invalid}"
    );
    assert!(
        desk.kubectl("explain widget.spec.size")
            .await
            .contains("FIELD: size <integer>")
    );
    desk.kubectl(&format!("delete -f {definition}")).await;
    desk.refused("get wd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_asks_for_rights_and_tokens() {
    if !has_kubectl().await {
        return;
    }
    let desk = Desk::new().await;
    assert_eq!(desk.kubectl("auth can-i create pods").await, "yes\n");
    desk.kubectl("create serviceaccount reader").await;
    desk.kubectl("create role pods --verb=get,list --resource=pods")
        .await;
    desk.kubectl("create rolebinding reader --role=pods --serviceaccount=default:reader")
        .await;
    let account = "--as=system:serviceaccount:default:reader";
    assert_eq!(
        desk.kubectl(&format!("auth can-i list pods {account}"))
            .await,
        "yes\n"
    );
    assert_eq!(
        desk.refused(&format!("auth can-i delete pods {account}"))
            .await,
        "no\n"
    );
    let token = desk.kubectl("create token reader").await;
    let as_reader = format!("--token={}", token.trim());
    desk.kubectl("config set-credentials none").await;
    desk.kubectl("config set-context --current --user=none")
        .await;
    assert_eq!(
        desk.kubectl(&format!("get pods {as_reader} -o name")).await,
        ""
    );
    let refused = desk.refused(&format!("get secrets {as_reader}")).await;
    assert!(
        refused.contains(
            "User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in \
             API group \"\" in the namespace \"default\""
        ),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_follows_a_watch() {
    if !has_kubectl().await {
        return;
    }
    let desk = Desk::new().await;
    let mut watch = desk.command("kubectl");
    watch.args([
        "get",
        "configmaps",
        "-w",
        "--output-watch-events",
        "-l",
        "app=a",
        "--no-headers",
    ]);
    let mut child = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    desk.kubectl("create configmap one --from-literal=a=b")
        .await;
    for (change, event) in [
        ("label configmap one app=a", "ADDED"),
        ("annotate configmap one x=y", "MODIFIED"),
        ("label configmap one app=b --overwrite", "DELETED"),
    ] {
        desk.kubectl(change).await;
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.starts_with(event), "{change}: {line}");
    }
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_lists_pages_watches_and_patches() {
    if !has(
        "python3",
        &["-c", "import kubernetes; print('here')"],
        "here",
    )
    .await
    {
        return;
    }
    let desk = Desk::new().await;
    let script = desk.file("client.py", PYTHON);
    let output = desk
        .command("python3")
        .arg(PathBuf::from(script))
        .output()
        .await
        .unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "done\n");
}
