//! hyper before a map: what axum and a cache are added to. Owns the map.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc};

use anyhow::Result;
use axum::body::Bytes;

use super::{Source, bare_hyper};

pub(super) async fn serve(listen: SocketAddr, source: Source) -> Result<()> {
    let kept: Rc<RefCell<HashMap<String, Bytes>>> = Rc::default();
    let source = Rc::new(source);
    let answer = move |key: String| {
        let (kept, source) = (Rc::clone(&kept), Rc::clone(&source));
        async move {
            if let Some(body) = kept.borrow().get(&key) {
                return Ok(body.clone());
            }
            let body = Bytes::from(source.load(&key).await);
            kept.borrow_mut().insert(key, body.clone());
            Ok(body)
        }
    };
    bare_hyper::serve(listen, answer).await
}
