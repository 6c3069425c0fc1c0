//! Plain `PUBLISH`, pipelined without waiting for answers.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedWriteHalf},
};

pub(crate) struct Publisher {
    stream: OwnedWriteHalf,
    commands: Vec<u8>,
}

impl Publisher {
    pub(crate) async fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut answers, stream) = stream.into_split();
        tokio::task::spawn_local(async move {
            let mut ignored = vec![0; 64 * 1024];
            while answers.read(&mut ignored).await.is_ok_and(|len| len > 0) {}
        });
        Self { stream, commands: Vec::new() }
    }

    pub(crate) fn queue(&mut self, channel: &str, event: &str) {
        let (c, e) = (channel.len(), event.len());
        let command = format!("*3\r\n$7\r\nPUBLISH\r\n${c}\r\n{channel}\r\n${e}\r\n{event}\r\n");
        self.commands.extend_from_slice(command.as_bytes());
    }

    pub(crate) async fn flush(&mut self) {
        self.stream.write_all(&self.commands).await.unwrap();
        self.commands.clear();
    }
}
