//! Owns the routes: which handler gets a request, by its method and path.

use http::Method;

use super::query::percent_decode;

/// Why a route can't be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The pattern is invalid.
    #[error("invalid route `{pattern}`: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The reason.
        why: String,
    },
    /// Some path would match this pattern and another one, and neither is more specific.
    #[error("route `{pattern}` conflicts with `{with}`: some paths match both")]
    Conflict {
        /// The pattern.
        pattern: String,
        /// The existing pattern.
        with: String,
    },
}

/// The parts of a path that the route's pattern names. Percent escapes are decoded once.
///
/// The path is matched as it was sent, and its parts are decoded afterwards. So a part may contain a `/` (sent as
/// `%2F`) or a zero byte (`%00`), or be `..` (`%2E%2E`). Check it before using it in a file name.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # fn show(params: &gyre::web::Params) {
/// // With the route `/user/{name}`:
/// let name = params.get("name");
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Returns the value of the part with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Returns the names and values of all parts, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the number of parts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the route has no named parts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decodes the parts. `None`: an invalid escape, or bytes that are not UTF-8.
    fn read(matched: &matchit::Params<'_, '_>) -> Option<Self> {
        let decode =
            |(name, value): (&str, &str)| Some((name.to_owned(), percent_decode(value)?.into_owned()));
        matched.iter().map(decode).collect::<Option<_>>().map(Self)
    }
}

/// The result of a search for a route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match<'a, H> {
    /// The request goes to this handler.
    Found { handler: &'a H, params: Params },
    /// No route matches the path.
    NotFound,
    /// Routes match the path, but not the method. The methods that match, as in the field `Allow`.
    MethodNotAllowed { allow: String },
    /// A route matches, but a named part can't be decoded.
    BadEscape,
}

/// The routes: a tree of patterns for each method. So the patterns of one method don't restrict those of another.
#[derive(Debug)]
pub(crate) struct Router<H> {
    trees: Vec<(Option<Method>, matchit::Router<H>)>,
}

impl<H> Default for Router<H> {
    fn default() -> Self {
        Self { trees: Vec::new() }
    }
}

impl<H> Router<H> {
    /// Adds a route for a method, or with `None` for every method without a route for the path. In the pattern `{name}`
    /// matches a part of the path up to the next `/`, and `{*name}` the rest of the path, if it is not empty. `{{` and
    /// `}}` are braces.
    pub(crate) fn add(
        &mut self,
        method: Option<Method>,
        pattern: &str,
        handler: H,
    ) -> Result<(), RouteError> {
        let invalid = |why: String| RouteError::Pattern { pattern: pattern.to_owned(), why };
        if !pattern.starts_with('/') {
            return Err(invalid("it must start with `/`".into()));
        }
        let at = self.trees.iter().position(|(known, _)| *known == method).unwrap_or_else(|| {
            self.trees.push((method, matchit::Router::new()));
            self.trees.len() - 1
        });
        self.trees[at].1.insert(pattern, handler).map_err(|error| match error {
            matchit::InsertError::Conflict { with } => {
                RouteError::Conflict { pattern: pattern.to_owned(), with }
            }
            error => invalid(error.to_string()),
        })
    }

    /// Finds the route of a request: first one for its method, for HEAD then one for GET, and last one for any method.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Match<'_, H> {
        let get = (method == Method::HEAD).then_some(&Method::GET);
        for wanted in [Some(method), get, None] {
            let tree = self.trees.iter().find(|(known, _)| known.as_ref() == wanted);
            let Some(Ok(found)) = tree.map(|(_, tree)| tree.at(path)) else { continue };
            return match Params::read(&found.params) {
                Some(params) => Match::Found { handler: found.value, params },
                None => Match::BadEscape,
            };
        }
        let fitting = self.trees.iter().filter(|(_, tree)| tree.at(path).is_ok());
        let mut allowed: Vec<&str> =
            fitting.filter_map(|(method, _)| Some(method.as_ref()?.as_str())).collect();
        if allowed.is_empty() {
            return Match::NotFound;
        }
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.sort_unstable();
        allowed.dedup();
        Match::MethodNotAllowed { allow: allowed.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn router() -> Router<u32> {
        let mut router = Router::default();
        let routes = [
            (Some(Method::GET), "/"),
            (Some(Method::GET), "/user/{name}"),
            (Some(Method::POST), "/user/{id}"),
            (None, "/user/{any}"),
            (Some(Method::GET), "/files/{*path}"),
            (Some(Method::POST), "/files/{*path}"),
            (Some(Method::HEAD), "/own"),
            (Some(Method::GET), "/own"),
            (None, "/any"),
        ];
        for (number, (method, pattern)) in (0..).zip(routes) {
            router.add(method, pattern, number).unwrap();
        }
        router
    }

    fn found(method: &Method, path: &str) -> (u32, String) {
        match router().find(method, path) {
            Match::Found { handler, params } => {
                (*handler, params.iter().map(|(name, value)| format!("{name}={value}")).collect())
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn methods_and_patterns_choose_the_handler() {
        assert_eq!(found(&Method::GET, "/"), (0, String::new()));
        assert_eq!(found(&Method::GET, "/user/a%20b+c"), (1, "name=a b+c".into()));
        assert_eq!(found(&Method::HEAD, "/user/x"), (1, "name=x".into()), "HEAD uses the routes of GET");
        assert_eq!(found(&Method::POST, "/user/x"), (2, "id=x".into()), "each method has its own names");
        assert_eq!(
            found(&Method::DELETE, "/user/x"),
            (3, "any=x".into()),
            "a route for the method is preferred"
        );
        assert_eq!(found(&Method::GET, "/files/a/b%2Fc%252F"), (4, "path=a/b/c%2F".into()), "decoded once");
        assert_eq!(found(&Method::HEAD, "/own"), (6, String::new()));
        assert_eq!(found(&Method::OPTIONS, "/any"), (8, String::new()));
    }

    #[test]
    fn an_unknown_path_differs_from_a_wrong_method() {
        let router = router();
        for nothing in ["", "*", "/nothing", "/user/", "/user/a/b", "/files/", "/own/", "/OWN"] {
            assert_eq!(router.find(&Method::GET, nothing), Match::NotFound, "{nothing:?}");
        }
        let allow = |allow: &str| Match::MethodNotAllowed { allow: allow.into() };
        assert_eq!(router.find(&Method::PUT, "/files/x"), allow("GET, HEAD, POST"));
        assert_eq!(router.find(&Method::OPTIONS, "/own"), allow("GET, HEAD"));
        for bad in ["/user/%", "/user/%2", "/user/%zz", "/user/%ff", "/files/a/%c3"] {
            assert_eq!(router.find(&Method::GET, bad), Match::BadEscape, "{bad}");
        }
    }

    #[test]
    fn errors_name_the_wrong_pattern() {
        let mut router = router();
        let mut error = |pattern: &str| router.add(Some(Method::GET), pattern, 0).unwrap_err();
        for wrong in ["", "user", "/{", "/{}", "/a/{*rest}/b", "/{a}{b}", "/{a"] {
            let error = error(wrong);
            assert!(matches!(error, RouteError::Pattern { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
        let conflict = error("/user/{id}");
        assert_eq!(
            conflict,
            RouteError::Conflict { pattern: "/user/{id}".into(), with: "/user/{name}".into() }
        );
    }

    #[test]
    fn params_are_found_by_name() {
        let params = Params(vec![("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!((params.get("b"), params.get("c"), params.len()), (Some("2"), None, 2));
        assert!(!params.is_empty() && Params::default().is_empty());
    }

    proptest! {
        #[test]
        fn any_escaped_name_is_decoded(name in "\\PC{1,20}") {
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(found(&Method::GET, &format!("/user/{escaped}")), (1, format!("name={name}")));
        }

        #[test]
        fn no_path_panics(path in "[/%a-f{}*.\\PC]{0,40}") {
            router().find(&Method::GET, &path);
        }
    }
}
