//! The Unix user that runs Postgres: the current one, or another one if that is root.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{Gid, Uid, User, fchownat, geteuid};

use super::EmbeddedError;

/// The user that owns the server and its folders.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    uid: Uid,
    /// Its name and group, if it is not the current user.
    other: Option<(String, Gid)>,
}

impl Owner {
    /// Chooses the current user, or, for root, which Postgres refuses, `postgres` or else `nobody`.
    pub(super) fn choose() -> Result<Owner, EmbeddedError> {
        let uid = geteuid();
        if !uid.is_root() {
            return Ok(Owner { uid, other: None });
        }
        let user = ["postgres", "nobody"]
            .iter()
            .filter_map(|name| User::from_name(name).ok().flatten())
            .find(|user| !user.uid.is_root())
            .ok_or(EmbeddedError::NoUser)?;
        Ok(Owner {
            uid: user.uid,
            other: Some((user.name, user.gid)),
        })
    }

    /// Returns a command that runs as this user, without the process's own Postgres client
    /// settings.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .current_dir("/")
            .env("LC_ALL", "C");
        // PGPORT, PGDATA, PGCLIENTENCODING and others would change the server.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((_, gid)) = &self.other {
            // std clears the supplementary groups if root sets another user.
            command.uid(self.uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Creates a folder that only this user (and root) can enter, or checks an existing one.
    pub(super) fn private_folder(&self, path: &Path) -> Result<(), EmbeddedError> {
        let failed = |error| EmbeddedError::folder(path, "make this folder", error);
        if let Some(parent) = path.parent() {
            self.folders(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        // In a shared temporary folder, another user may have created it first.
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let ours = [self.uid, geteuid()].map(Uid::as_raw).contains(&meta.uid());
        if !meta.is_dir() || !ours {
            return Err(EmbeddedError::Folder {
                path: path.to_owned(),
                reason: format!(
                    "belongs to the user with the id {}, or is no folder; expected one of the user with the id {}",
                    meta.uid(),
                    self.uid
                ),
                help: "Remove it or give it to that user, or set CONDUCTOR_DATA_DIR (data) or TMPDIR (tests, sockets) to another place.",
            });
        }
        if let Some((name, gid)) = &self.other {
            // Not through a link, which the other user could have created.
            fchownat(
                AT_FDCWD,
                path,
                Some(self.uid),
                Some(*gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .map_err(|errno| failed(errno.into()))?;
            self.may_enter(path).map_err(|barred| EmbeddedError::Folder {
                reason: format!("the user {name}, who runs Postgres for root, cannot enter {}", barred.display()),
                path: path.to_owned(),
                help: "Set CONDUCTOR_DATA_DIR (data) or TMPDIR (tests, sockets) to a folder that everybody can enter.",
            })?;
        }
        Ok(())
    }

    /// Creates what is missing of this path, so that this user can pass through.
    pub(super) fn folders(&self, path: &Path) -> Result<(), EmbeddedError> {
        let failed = |error| EmbeddedError::folder(path, "make this folder", error);
        let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
        fs::create_dir_all(path).map_err(failed)?;
        for folder in missing.into_iter().filter(|_| self.other.is_some()) {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns whether this user can remove its own files from this folder.
    pub(super) fn may_remove_from(&self, folder: &Path) -> bool {
        let everybody = || fs::metadata(folder).is_ok_and(|meta| meta.mode() & 0o002 != 0);
        self.other.is_none() || everybody()
    }

    /// Checks that this user can enter the folder; otherwise returns the part of the path that
    /// prevents it.
    pub(super) fn may_enter(&self, folder: &Path) -> Result<(), PathBuf> {
        let Some((_, gid)) = &self.other else {
            return Ok(()); // the operating system checks it
        };
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let barred = folder.ancestors().find(|part| {
            fs::metadata(part).is_ok_and(|meta| {
                let bit = match () {
                    () if meta.uid() == self.uid.as_raw() => 0o100,
                    () if meta.gid() == gid.as_raw() => 0o010,
                    () => 0o001,
                };
                meta.mode() & bit == 0
            })
        });
        barred.map_or(Ok(()), |part| Err(part.to_owned()))
    }
}
