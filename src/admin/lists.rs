//! Owns the lists' part of the API: shows all lists, reads and changes the tracker's own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::{Done, Watched, require_token, send_json};
use crate::access::{ListError, ListName};
use crate::error::{Code, TrackerError};
use crate::limits::{ADMIN_ENTRIES_BYTES, ADMIN_LIST_BYTES};
use crate::server::{ListChange, ListChangeError};
use crate::sys;
use crate::web::HttpConnection;

/// A list, as the API shows it.
#[derive(Serialize)]
struct ListInfo {
    name: &'static str,
    file: String,
    entries: usize,
    /// Whether it is one of the tracker's own lists, which the API can change.
    own: bool,
}

/// `GET /api/lists`
pub(super) async fn all(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let lists = watched.handle.status().lists;
    let shown = lists.iter().map(|list| ListInfo {
        name: list.name.as_str(),
        file: list.path.display().to_string(),
        entries: list.entries,
        own: list.is_own,
    });
    send_json(connection, &shown.collect::<Vec<_>>()).await
}

/// `GET /api/lists/{name}`: the content of the tracker's own list.
pub(super) async fn read(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let name = name_of(connection)?;
    let own = watched.handle.status().lists.into_iter().find(|list| list.is_own && list.name == name);
    let own =
        own.ok_or_else(|| TrackerError::new(Code::NotFound, "the tracker has no own list of this name"))?;
    connection.set_content_type("text/plain; charset=utf-8")?;
    super::no_store(connection)?;
    connection.drain(&own.path).await
}

/// `PUT /api/lists/{name}`: replaces the list with the body.
pub(super) async fn replace(watched: &Watched, connection: &mut HttpConnection) -> Done {
    require_token(watched, connection)?;
    let name = name_of(connection)?;
    let directory =
        watched.handle.own_lists().ok_or_else(|| to_tracker_error(ListChangeError::NoDirectory))?;
    let file = receive(directory, connection).await?;
    change(watched, connection, name, ListChange::Replace(file)).await
}

/// `POST /api/lists/{name}`: adds the lines of the body.
pub(super) async fn add(watched: &Watched, connection: &mut HttpConnection) -> Done {
    require_token(watched, connection)?;
    let name = name_of(connection)?;
    let lines = connection.body().limit(ADMIN_ENTRIES_BYTES).raw().await?;
    let lines = String::from_utf8(lines.into())
        .map_err(|_| TrackerError::incorrect_request("the body is not valid UTF-8"))?;
    change(watched, connection, name, ListChange::Add(lines)).await
}

/// `DELETE /api/lists/{name}`
pub(super) async fn delete(watched: &Watched, connection: &mut HttpConnection) -> Done {
    require_token(watched, connection)?;
    let name = name_of(connection)?;
    change(watched, connection, name, ListChange::Delete).await
}

/// `DELETE /api/lists/{name}/{entry}`
pub(super) async fn remove(watched: &Watched, connection: &mut HttpConnection) -> Done {
    require_token(watched, connection)?;
    let name = name_of(connection)?;
    let entry = connection.param("entry").unwrap_or_default().to_owned();
    change(watched, connection, name, ListChange::Remove(entry)).await
}

fn name_of(connection: &HttpConnection) -> Result<ListName, TrackerError> {
    let name = connection.param("name").unwrap_or_default().parse();
    name.map_err(|words: &str| TrackerError::new(Code::NotFound, words))
}

async fn change(
    watched: &Watched,
    connection: &mut HttpConnection,
    name: ListName,
    change: ListChange,
) -> Done {
    watched.handle.change_list(name, change).await.map_err(to_tracker_error)?;
    let lists = watched.handle.status().lists;
    let entries = lists.iter().find(|list| list.is_own && list.name == name).map(|list| list.entries);
    send_json(connection, &json!({ "name": name.as_str(), "entries": entries })).await
}

/// Returns the response for a change that failed.
fn to_tracker_error(error: ListChangeError) -> TrackerError {
    let code = match &error {
        ListChangeError::NoDirectory => Code::AccessDenied,
        ListChangeError::NotThere => Code::NotFound,
        ListChangeError::Wrong(ListError::Line { .. }) => Code::IncorrectRequest,
        ListChangeError::Wrong(ListError::Io(_)) | ListChangeError::Io(_) => {
            return TrackerError::internal(error);
        }
    };
    TrackerError::new(code, error.to_string())
}

/// A temporary file with an uploaded body. It is deleted on drop unless it is taken out.
struct Upload(Option<PathBuf>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

/// Writes the body to a temporary file in the directory of the tracker's own lists.
async fn receive(directory: &Path, connection: &mut HttpConnection) -> Result<PathBuf, TrackerError> {
    let failed = |error: std::io::Error| TrackerError::internal(error);
    sys::make_directory(directory, None).map_err(failed)?;
    let number = u64::from_ne_bytes(sys::random().map_err(failed)?);
    let path = directory.join(format!("upload-{number:016x}"));
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    let (mut file, mut upload) = (file.map_err(failed)?, Upload(Some(path.clone())));
    let mut body = connection.body().limit(ADMIN_LIST_BYTES);
    while let Some(piece) = body.next().await? {
        file.write_all(&piece).map_err(failed)?;
    }
    upload.0 = None;
    Ok(path)
}
