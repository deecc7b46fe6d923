//! How much memory an idle server takes: the resident set of this process at one server and at
//! many. `cargo run --release -p fairlead-apiserver --example idle_memory -- 1000`

use fairlead_apiserver::ApiServer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    let started = std::time::Instant::now();
    let mut servers = vec![ApiServer::builder().build().await?];
    let first = started.elapsed();
    settle().await;
    let one = resident_kib()?;
    for _ in 1..count {
        servers.push(ApiServer::builder().build().await?);
    }
    settle().await;
    let many = resident_kib()?;
    println!("first server ready after {first:?}");
    println!("1 server: {one} KiB, {count} servers: {many} KiB");
    println!(
        "each further server: {} KiB",
        (many - one) / (count as u64 - 1).max(1)
    );
    println!("all started within {:?}", started.elapsed());
    Ok(())
}

/// Lets the controllers of all servers finish what a fresh server needs.
async fn settle() {
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
}

fn resident_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.map_or(Ok(0), |text| Ok(text.parse()?))
}
