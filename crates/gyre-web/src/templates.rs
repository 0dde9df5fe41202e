//! Owns the templates of pages: minijinja with limits.

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, path_loader};
use serde::Serialize;

use crate::limits::{WEB_TEMPLATE_DEPTH, WEB_TEMPLATE_FUEL};
use gyre_core::error::TrackerError;

/// Jinja templates by name. Clones share the templates and can be used by all workers.
///
/// The name's ending decides how values are written. In `.html`, `.htm` and `.xml` they are escaped for HTML. In `.js`,
/// `.json` and `.yaml` they are written as JSON; the filter `tojson` does so in a script within HTML. In all other
/// templates they are written unchanged. One rendering may take [`WEB_TEMPLATE_FUEL`] instructions and nest
/// [`WEB_TEMPLATE_DEPTH`] deep.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// use gyre::web::templates::Templates;
/// use std::collections::BTreeMap;
///
/// let templates = Templates::new().add("hello.html", "<p>Hello, {{ name }}!")?;
/// let page = templates.render("hello.html", BTreeMap::from([("name", "<me>")]))?;
/// assert_eq!(page, "<p>Hello, &lt;me&gt;!");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Templates(Arc<Environment<'static>>);

impl Templates {
    /// Creates an empty collection.
    pub fn new() -> Self {
        Self::environment(Environment::new())
    }

    /// Loads templates from a folder and its subfolders. A template's name is its path below the folder. Each file is
    /// read at its first use, for which the worker waits, and then kept. Names can't lead out of the folder, except
    /// through links in the file system. Files whose name starts with a dot are not found. The program and not the
    /// client should choose the names: `a//b` and `a/b` name the same file, which is then kept twice.
    pub fn directory(path: impl AsRef<Path>) -> Self {
        let mut environment = Environment::new();
        environment.set_loader(path_loader(path));
        environment.set_auto_reload(false);
        Self::environment(environment)
    }

    /// Takes an environment with its own templates, filters and functions. Limits that it lacks are set.
    pub fn environment(mut environment: Environment<'static>) -> Self {
        environment.set_fuel(environment.fuel().or(Some(WEB_TEMPLATE_FUEL)));
        environment.set_recursion_limit(environment.recursion_limit().min(WEB_TEMPLATE_DEPTH));
        Self(Arc::new(environment))
    }

    /// Adds a template. Earlier clones don't have it.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal) for a syntax error, with its line.
    pub fn add(
        mut self,
        name: impl Into<Cow<'static, str>>,
        source: impl Into<Cow<'static, str>>,
    ) -> Result<Self, TrackerError> {
        Arc::make_mut(&mut self.0).add_template_owned(name, source).map_err(|error| failed(&error))?;
        Ok(self)
    }

    /// Renders a template with the values of a structure or map.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal) if there is no such template, it fails (with the line), or
    /// it exceeds a limit.
    pub fn render(&self, name: &str, context: impl Serialize) -> Result<String, TrackerError> {
        let template = self.0.get_template(name);
        template
            .and_then(|template| template.render(Value::from(Serde(context))))
            .map_err(|error| failed(&error))
    }

    /// Renders a template from its source. Values are escaped for HTML.
    ///
    /// # Errors
    ///
    /// As [`Templates::render`].
    pub fn render_str(&self, source: &str, context: impl Serialize) -> Result<String, TrackerError> {
        let rendered = self.0.render_named_str("string.html", source, Value::from(Serde(context)));
        rendered.map_err(|error| failed(&error))
    }
}

impl Default for Templates {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes an error with the name and line of the template, and of those that include it.
fn failed(error: &minijinja::Error) -> TrackerError {
    let mut message = format!("template: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    TrackerError::internal(message)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use minijinja::context;

    use super::*;
    use gyre_core::error::Code;

    /// Returns the message of a failure.
    fn failure(result: Result<impl Sized, TrackerError>) -> String {
        let Err(error) = result else { panic!("no error") };
        assert_eq!(error.code(), Code::Internal);
        error.message().to_owned()
    }

    #[test]
    fn the_name_decides_how_values_are_escaped() {
        let templates = Templates::new();
        let mut templates = templates.add("page.txt", "{{ a }}").unwrap();
        for (name, source) in [
            ("a.html", "{{ a }}{{ a|safe }}"),
            ("a.js", "x={{ a }}"),
            ("b.html", "{{ a|urlencode }} {{ a|tojson }}"),
        ] {
            templates = templates.add(name.to_owned(), source).unwrap();
        }
        let shared = templates.clone();
        let render = move |name: &str| shared.render(name, context! { a => "<&'" }).unwrap();
        let from_another_thread = std::thread::spawn(move || render("a.html")).join().unwrap();
        assert_eq!(from_another_thread, "&lt;&amp;&#x27;<&'");
        let render = |name: &str| templates.render(name, context! { a => "<&'" }).unwrap();
        assert_eq!(render("page.txt"), "<&'");
        assert_eq!(render("a.js"), "x=\"<&'\"");
        assert_eq!(render("b.html"), "%3C%26%27 \"\\u003c\\u0026\\u0027\"");
        assert_eq!(templates.render_str("{{ a }}", context! { a => "<" }).unwrap(), "&lt;");
    }

    #[test]
    fn errors_name_template_and_line() {
        let message = failure(Templates::new().add("bad.html", "\n{% if %}"));
        assert!(message.contains("bad.html:2"), "{message}");
        let templates = Templates::new()
            .add("outer.html", "{% include 'inner.html' %}")
            .and_then(|templates| templates.add("inner.html", "\n\n{{ 1 / 0 }}"))
            .unwrap();
        let message = failure(templates.render("outer.html", ()));
        assert!(message.contains("outer.html:1") && message.contains("inner.html:3"), "{message}");
        assert!(failure(templates.render("none.html", ())).contains("none.html"));
        assert!(failure(templates.render_str("{{ a.b.c }}", ())).contains(":1"));
    }

    #[test]
    fn rendering_is_limited() {
        let templates = Templates::new();
        let loops = "{% for a in range(2000) %}{% for b in range(2000) %}{% endfor %}{% endfor %}";
        assert!(failure(templates.render_str(loops, ())).contains("fuel"));
        let rows = "{% for row in range(9000) %}<td>{{ row }}</td><td>{{ row * 2 }}</td>{% endfor %}";
        assert!(templates.render_str(rows, ()).is_ok());
        let calls = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
        assert!(failure(templates.render_str(calls, ())).contains("recursion"));
        let includes = templates.add("a.html", "{% include 'a.html' %}").unwrap();
        assert!(failure(includes.render("a.html", ())).contains("recursion"));
        assert_eq!(includes.0.recursion_limit(), WEB_TEMPLATE_DEPTH);
        let mut own = Environment::new();
        own.set_fuel(Some(5));
        own.add_global("one", 1);
        let own = Templates::environment(own);
        assert_eq!(own.render_str("{{ one }}", ()).unwrap(), "1");
        assert!(failure(own.render_str(rows, ())).contains("fuel"));
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let folder = std::env::temp_dir().join(format!("gyre-templates-{}", std::process::id()));
        fs::create_dir_all(folder.join("pages/sub")).unwrap();
        fs::write(folder.join("secret.html"), "secret").unwrap();
        fs::write(folder.join("pages/sub/a.html"), "{{ a }}").unwrap();
        fs::write(folder.join("pages/.hidden.html"), "hidden").unwrap();
        let templates = Templates::directory(folder.join("pages"));
        assert_eq!(templates.render("sub/a.html", context! { a => "<" }).unwrap(), "&lt;");
        let absolute = folder.join("secret.html");
        for wrong in [
            "../secret.html",
            "sub/../../secret.html",
            ".hidden.html",
            absolute.to_str().unwrap(),
            "sub",
            "\0",
        ] {
            failure(templates.render(wrong, ()));
        }
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(
            templates.render("sub/a.html", context! { a => 1 }).unwrap(),
            "1",
            "a template is kept in memory"
        );
    }
}
