//! End-to-end tests, guards and what they share.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | a Kubernetes API server to test against: embedded, or the real one |
//! | [`fleet`] | a whole fleet, as `fairlead up` runs it |
//! | [`clients`] | clients of an endpoint |
//! | [`process`] | a program of this workspace as a child process |
//! | [`real`] | starts the real etcd, kube-apiserver and kube-controller-manager |
//! | [`wait`] | waits for a value, never for a time |

pub mod clients;
pub mod cluster;
pub mod fleet;
pub mod process;
pub mod real;
pub mod wait;

/// Fails unless the two are equal, and shows both.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => anyhow::ensure!(
                left == right,
                "{}:{}: {} is {left:?}, not {right:?}",
                file!(),
                line!(),
                stringify!($left)
            ),
        }
    };
}
