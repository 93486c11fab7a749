//! A network that swallows what is sent.

use std::path::PathBuf;

use conductor::{Conductor, Orchestrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::{Tick, Ticking, tasks, ticks, word};
use crate::support::eventually;

/// Passes connections on to the server; those of the past can be made to say nothing any more.
struct Network {
    port: u16,
    hung: watch::Sender<u64>,
}

enum Server {
    Socket(PathBuf),
    Address(String),
}

impl Network {
    async fn before(options: &PgConnectOptions) -> anyhow::Result<Self> {
        let server = match options.get_socket() {
            Some(folder) => Server::Socket(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
            None => Server::Address(format!("{}:{}", options.get_host(), options.get_port())),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (hung, age) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let age = age.clone();
                match &server {
                    Server::Socket(path) => {
                        let server = UnixStream::connect(path).await.unwrap();
                        tokio::spawn(pass(client, server, age));
                    }
                    Server::Address(address) => {
                        let server = TcpStream::connect(address).await.unwrap();
                        tokio::spawn(pass(client, server, age));
                    }
                }
            }
        });
        Ok(Self { port, hung })
    }

    fn hang(&self) {
        self.hung.send_modify(|age| *age += 1);
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut age: watch::Receiver<u64>,
) {
    let born = *age.borrow_and_update();
    let hung = async move {
        // Its value is no use, and would be locked.
        let _ = age.wait_for(|age| *age > born).await.map(drop);
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        // Open, and dumb.
        () = hung => std::future::pending::<()>().await,
    }
}

#[conductor::test]
async fn ticks_go_on_when_a_connection_says_nothing_any_more(test: Ticking) -> anyhow::Result<()> {
    let direct: PgConnectOptions = test.url().parse()?;
    let network = Network::before(&direct).await?;
    let through = match direct.get_socket() {
        // A path to a socket would go before a host.
        Some(_) => PgConnectOptions::new_without_pgpass()
            .username(direct.get_username())
            .database(direct.get_database().unwrap_or_default()),
        None => direct,
    };
    let through = through.host("127.0.0.1").port(network.port);
    let pool = PgPoolOptions::new()
        .max_connections(2)
        // As the client's own pools; else the pool's own timeout would be what helps.
        .test_before_acquire(false)
        .connect_with(through)
        .await?;
    let worker = Orchestrator::builder(Conductor::from_pool(pool))
        .tasks(tasks())
        .build()?
        .start()
        .await?;
    test.schedule::<Tick>("each second", "* * * * * *", word())
        .await?;
    let made = async || ticks(&test, "each second").await.unwrap().len();
    eventually("a tick", async || made().await >= 2).await;
    network.hang();
    let before = made().await;
    eventually("ticks behind the fault", async || made().await > before + 2).await;
    drop(worker);
    Ok(())
}
