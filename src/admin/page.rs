//! Owns the live page: its files, which are part of the program, and what a browser may do with them. The page gets its
//! data from the API.

use http::header::IF_NONE_MATCH;
use siphasher::sip::SipHasher13;

use super::Done;
use crate::engine::middleware::Middleware;
use crate::server::Builder;
use crate::web::HttpConnection;
use crate::web::cache::CacheControl;

/// The files of the page: path, media type, content.
const PARTS: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("page/chart.js")),
    ("/words.js", "text/javascript; charset=utf-8", include_str!("page/words.js")),
];

/// Everything that the page needs comes from this server. It loads, runs and sends nothing elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds the page.
pub(super) fn routes<M: Middleware + Send>(builder: Builder<M>) -> Builder<M> {
    PARTS.into_iter().fold(builder, |builder, (path, media_type, text)| {
        let tag = format!("W/\"{:016x}\"", SipHasher13::new().hash(text.as_bytes()));
        builder.get(path, async move |connection: &mut HttpConnection| {
            send(connection, media_type, text, &tag).await
        })
    })
}

async fn send(connection: &mut HttpConnection, media_type: &str, text: &str, tag: &str) -> Done {
    connection.set_header("content-security-policy", POLICY)?;
    connection.set_header("x-content-type-options", "nosniff")?;
    connection.set_header("referrer-policy", "no-referrer")?;
    // Another version of gyre has another page. So browsers ask each time, and get a 304 if theirs is current.
    connection.set_cache(Some(&CacheControl::new().no_cache()))?;
    connection.set_header("etag", tag)?;
    if connection.headers().get(IF_NONE_MATCH).is_some_and(|known| known == tag) {
        connection.set_status(304)?;
        return connection.send(()).await;
    }
    connection.set_content_type(media_type)?;
    connection.send(text).await
}
