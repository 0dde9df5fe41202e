//! Owns what happens to a connection that the ring has accepted: it is served, refused or closed.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::client::Peer;
use super::{Driver, http};
use crate::counters::Counter;
use crate::engine::middleware::Middleware;
use crate::limits::HTTP_ACCEPT_PAUSE_MS;
use crate::ring::Accepted;
use crate::throttle::Limited;
use crate::time::Timestamp;

impl<M: Middleware> Driver<M> {
    /// Takes the accepted connections, and accepts as many more as there are places.
    pub(super) fn take_connections(&mut self, now: Timestamp) {
        let shared = self.app.shared.clone();
        while !shared.connections.borrow().is_making_room()
            && let Some(accepted) = shared.streams.next()
        {
            match accepted {
                Ok(accepted) => self.take_connection(now, accepted),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {} // the client has reset it
                Err(_) => {
                    shared.engine.borrow_mut().counters.bump(Counter::DropAccept);
                    self.accepts_from = now + Duration::from_millis(HTTP_ACCEPT_PAUSE_MS);
                }
            }
        }
        // At the limit, connections wait in the kernel until the ones that make room are closed.
        let connections = shared.connections.borrow();
        if !connections.is_making_room() && now >= self.accepts_from && !shared.stopping.get() {
            shared.streams.accept(connections.places());
        }
    }

    fn take_connection(&mut self, now: Timestamp, Accepted { stream, peer, listener }: Accepted) {
        let (app, shared) = (&self.app, &self.app.shared);
        let peer = Peer { ip: peer.ip().to_canonical(), is_https: false, listener };
        let limited = !peer.is_trusted(&app.trusted_proxies.borrow())
            && !shared.permits(now, peer.ip, Limited::HttpConnection);
        if limited {
            return; // it is closed
        }
        let stream = Rc::new(stream);
        let admission = shared.connections.borrow_mut().open(now, &stream);
        if admission.is_none_or(|admission| admission.refused) {
            shared.engine.borrow_mut().counters.bump(Counter::DropConnections);
        }
        if let Some(admission) = admission {
            self.http.spawn(http::serve(app.clone(), stream, peer, admission));
        }
    }
}
