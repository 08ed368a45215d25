//! `[maintain]`: who does the work of `firn maintain`, and what `firn run` does of it by itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::policy::{BudgetConfig, PolicyConfig};
use super::secret::{Secret, password_in};
use crate::maintain::trino::{Login, Settings};

/// `[maintain]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaintainConfig {
    /// Of all tables; `maintain` of a table says what it does differently.
    pub policy: PolicyConfig,
    pub budget: BudgetConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trino: Option<TrinoConfig>,
}

/// `[maintain.trino]`: for `--engine trino`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrinoConfig {
    /// The coordinator.
    pub url: String,
    #[serde(default = "user")]
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// PEM, of the authority that signed the coordinator's certificate, where that is no public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The catalog in Trino that holds firn's tables.
    pub catalog: String,
}

fn user() -> String {
    "firn".to_owned()
}

impl MaintainConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        self.policy.validate().map_err(|p| p.under("policy"))?;
        self.budget.validate().map_err(|p| p.under("budget"))?;
        self.trino.as_ref().map_or(Ok(()), |trino| trino.validate().map_err(|p| p.under("trino")))
    }

    pub(super) fn resolve_paths(&mut self, from: &Path) {
        if let Some(file) = self.trino.as_mut().and_then(|trino| trino.ca_file.as_mut()) {
            *file = from.join(&*file);
        }
    }
}

impl TrinoConfig {
    fn validate(&self) -> Result<(), Problem> {
        let secure = self.url.starts_with("https://");
        if !secure && !self.url.starts_with("http://") {
            return Err(Problem::new("url", format!("`{}` is not an http:// or https:// address", self.url)));
        }
        if password_in(&self.url).is_some() {
            return Err(Problem::new("url", "holds a password: set `password`"));
        }
        if self.password.is_some() && self.token.is_some() {
            return Err(Problem::new("token", "password is set too: choose one"));
        }
        if !secure && (self.password.is_some() || self.token.is_some()) {
            return Err(Problem::new("url", "is not https: a password or token would go over the network as it is"));
        }
        if self.catalog.is_empty() {
            return Err(Problem::new("catalog", "is empty: name the catalog in Trino that holds the tables"));
        }
        Ok(())
    }

    /// How the coordinator is reached.
    ///
    /// # Errors
    /// The sentence for a person when the certificate can't be read.
    pub fn settings(&self) -> Result<Settings, String> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| format!("maintain.trino.ca_file: {}: {e}", path.display()))
        };
        let login = match (&self.password, &self.token) {
            (Some(password), _) => Login::Password(password.as_str().to_owned()),
            (None, Some(token)) => Login::Token(token.as_str().to_owned()),
            (None, None) => Login::Nothing,
        };
        Ok(Settings {
            url: self.url.clone(),
            user: self.user.clone(),
            login,
            ca: self.ca_file.as_ref().map(read).transpose()?,
            catalog: self.catalog.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("url = 'http://t:8080'\ncatalog = 'lake'", None)]
    #[case("url = 'https://t'\ncatalog = 'lake'\npassword = 'p'", None)]
    #[case("url = 't:8080'\ncatalog = 'lake'", Some("http:// or https://"))]
    #[case("url = 'https://u:p@t'\ncatalog = 'lake'", Some("set `password`"))]
    #[case("url = 'http://t'\ncatalog = 'lake'\ntoken = 'j'", Some("is not https"))]
    #[case("url = 'https://t'\ncatalog = 'lake'\ntoken = 'j'\npassword = 'p'", Some("choose one"))]
    #[case("url = 'https://t'\ncatalog = ''", Some("is empty"))]
    fn its_keys_are_checked(#[case] text: &str, #[case] refused: Option<&str>) {
        let config: TrinoConfig = toml::from_str(text).unwrap();
        match (config.validate(), refused) {
            (Ok(()), None) => {}
            (Err(problem), Some(want)) => assert!(problem.message.contains(want), "{problem:?}"),
            (got, want) => panic!("{got:?} for {want:?}"),
        }
    }

    #[test]
    fn secrets_reach_the_client_and_nothing_else() {
        let config: TrinoConfig = toml::from_str("url = 'https://t'\ncatalog = 'lake'\npassword = 'hunter2'").unwrap();
        let settings = config.settings().unwrap();
        assert!(matches!(&settings.login, Login::Password(p) if p == "hunter2"));
        assert!(!format!("{config:?} {settings:?} {}", toml::to_string(&config).unwrap()).contains("hunter2"));
    }
}
