//! Passwords: made here, stored encrypted, revealed to who asks for them by name.

use crate::errors::database;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;
use sqlx::{PgConnection, Row};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use toygres_models::{Error, ErrorKind, InstanceId, Result, Secret};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// A file with a key in it is a few dozen bytes.
const KEY_FILE_MAX_BYTES: u64 = 1024;
/// No two that look alike. 32 of them, so that five random bits choose one without favour.
const PASSWORD_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 130 bits.
const PASSWORD_CHARS: usize = 26;

/// The key of everything stored encrypted: 32 bytes from which a key for each use is derived. Whoever loses it loses
/// the stored passwords, not the instances.
pub struct MasterKey {
    encryption: Zeroizing<[u8; KEY_BYTES]>,
    request_hash: Zeroizing<[u8; KEY_BYTES]>,
    /// Says which key it is without saying anything about it.
    id: [u8; KEY_BYTES],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

impl MasterKey {
    /// A key from its Base64 text (standard alphabet, 32 bytes; white space around it is ignored).
    ///
    /// # Errors
    /// [`ErrorKind::Config`], code `master_key_invalid`.
    pub fn from_base64(text: &Secret<String>) -> Result<Self> {
        let bytes = STANDARD.decode(text.reveal().trim()).map(Zeroizing::new).ok();
        let master: Option<Zeroizing<[u8; KEY_BYTES]>> = bytes
            .and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok())
            .map(Zeroizing::new);
        let Some(master) = master else {
            return Err(
                config("master_key_invalid", "the master key is not 32 bytes in Base64")
                    .hint("make one with `openssl rand -base64 32`"),
            );
        };
        Ok(Self {
            encryption: derive(&master, "toygres credentials"),
            request_hash: derive(&master, "toygres request hash"),
            id: *derive(&master, "toygres key id"),
        })
    }

    /// The key in the file, which is made, with a new key and mode 0600, if it is not there. Several processes may
    /// do that at once: all get the same key.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: code `master_key_exposed` when others than the file's owner can read it,
    /// `master_key_invalid` when it does not hold a key, `master_key_file` when it can't be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == IoErrorKind::NotFound => {
                create_key_file(path)?;
                Self::read(path, File::open(path).map_err(|error| file_error(path, error))?)
            }
            Err(error) => Err(file_error(path, error)),
        }
    }

    fn read(path: &Path, file: File) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| file_error(path, error))?;
        let mode = metadata.permissions().mode() & 0o777;
        let path = path.display();
        if mode & 0o077 != 0 {
            return Err(config(
                "master_key_exposed",
                format!("the master key in {path} can be read by others (mode {mode:03o})"),
            )
            .hint(format!(
                "run `chmod 600 {path}`; if others could see it, passwords are no longer secret"
            )));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| {
                config(
                    "master_key_file",
                    format!("the master key in {path} can't be read"),
                )
                .source(error)
            })?;
        Self::from_base64(&Secret::new((*text).clone())).map_err(|_| {
            config(
                "master_key_invalid",
                format!("{path} does not hold a master key: 32 bytes in Base64"),
            )
            .hint("restore the file from a backup; a new key can't read the stored passwords")
        })
    }

    pub(crate) fn request_hash(&self, canonical: &[u8]) -> [u8; 32] {
        hmac(&self.request_hash, canonical)
    }

    fn encrypt(&self, instance_id: InstanceId, password: &Secret) -> Result<([u8; NONCE_BYTES], Vec<u8>)> {
        let nonce: [u8; NONCE_BYTES] = *random()?;
        let payload = Payload {
            msg: password.reveal().as_bytes(),
            aad: instance_id.0.as_bytes(),
        };
        let ciphertext = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| Error::internal("encryption failed"))?;
        Ok((nonce, ciphertext))
    }

    fn decrypt(&self, instance_id: InstanceId, stored: &Stored) -> Result<Secret> {
        if stored.key_id != self.id {
            return Err(wrong_key().context(format!("instance {instance_id}")));
        }
        let damaged = || {
            Error::internal(format!(
                "the stored password of instance {instance_id} is damaged"
            ))
        };
        let nonce: [u8; NONCE_BYTES] = stored.nonce.as_slice().try_into().map_err(|_| damaged())?;
        let payload = Payload {
            msg: &stored.ciphertext,
            aad: instance_id.0.as_bytes(),
        };
        let bytes = self
            .cipher()
            .decrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| damaged())?;
        String::from_utf8(bytes).map(Secret::new).map_err(|_| damaged())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.encryption).into())
    }
}

/// Makes the file whole or not at all: written beside it, then linked to its name, which fails if the name is taken.
fn create_key_file(path: &Path) -> Result<()> {
    let key: Zeroizing<[u8; KEY_BYTES]> = random()?;
    let text = Zeroizing::new(format!("{}\n", STANDARD.encode(*key)));
    let beside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match std::fs::hard_link(&beside, path) {
            Err(error) if error.kind() != IoErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    let written = write();
    std::fs::remove_file(&beside).ok();
    written.map_err(|error| file_error(path, error))?;
    // So that the name, too, survives a crash of the machine: what the key encrypts will.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| file_error(path, error))
}

fn derive(master: &[u8; KEY_BYTES], purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
    Zeroizing::new(hmac(master, purpose.as_bytes()))
}

fn hmac(key: &[u8; KEY_BYTES], message: &[u8]) -> [u8; KEY_BYTES] {
    // HMAC fills its key up to a block of the hash with zeros.
    let mut block = Zeroizing::new([0; 64]);
    block[..KEY_BYTES].copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Bytes from the operating system's own source.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    SysRng
        .try_fill_bytes(bytes.as_mut_slice())
        .map_err(|error| Error::internal("the system gives no random numbers").source(error))?;
    Ok(bytes)
}

pub(crate) fn generate_password() -> Result<Secret> {
    let bytes: Zeroizing<[u8; PASSWORD_CHARS]> = random()?;
    let characters = bytes
        .iter()
        .map(|byte| char::from(PASSWORD_ALPHABET[usize::from(byte % 32)]));
    Ok(Secret::new(characters.collect()))
}

struct Stored {
    key_id: Vec<u8>,
    nonce: Vec<u8>,
    ciphertext: Vec<u8>,
}

pub(crate) async fn store(
    connection: &mut PgConnection,
    key: &MasterKey,
    instance_id: InstanceId,
    password: &Secret,
) -> Result<()> {
    let (nonce, ciphertext) = key.encrypt(instance_id, password)?;
    sqlx::query(
        "insert into cms.credentials (instance_id, key_id, nonce, ciphertext) values ($1, $2, $3, $4)",
    )
    .bind(instance_id.0)
    .bind(key.id.as_slice())
    .bind(nonce.as_slice())
    .bind(ciphertext)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

/// The instance's password; `None` once the instance is deleted.
pub(crate) async fn load(
    connection: &mut PgConnection,
    key: &MasterKey,
    instance_id: InstanceId,
) -> Result<Option<Secret>> {
    let stored = sqlx::query("select key_id, nonce, ciphertext from cms.credentials where instance_id = $1")
        .bind(instance_id.0)
        .try_map(|row| {
            Ok(Stored {
                key_id: row.try_get("key_id")?,
                nonce: row.try_get("nonce")?,
                ciphertext: row.try_get("ciphertext")?,
            })
        })
        .fetch_optional(connection)
        .await
        .map_err(database)?;
    stored.map(|stored| key.decrypt(instance_id, &stored)).transpose()
}

impl crate::Cms {
    /// Makes sure that the stored passwords were encrypted with this key. The first server to start on a database
    /// decides. For the start: else a wrong key would be noticed at the first password only.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], code `master_key_wrong`. Else see the crate.
    pub async fn check_master_key(&self) -> Result<()> {
        sqlx::query("insert into cms.master_key (key_id) values ($1) on conflict do nothing")
            .bind(self.key.id.as_slice())
            .execute(&self.pool)
            .await
            .map_err(database)?;
        let known: Vec<u8> = sqlx::query_scalar("select key_id from cms.master_key")
            .fetch_one(&self.pool)
            .await
            .map_err(database)?;
        if known == self.key.id {
            Ok(())
        } else {
            Err(wrong_key())
        }
    }
}

fn wrong_key() -> Error {
    config(
        "master_key_wrong",
        "the passwords in the control database were encrypted with another master key than this server's",
    )
    .hint("give every server of this database the key file of the one that was started first")
}

fn file_error(path: &Path, error: std::io::Error) -> Error {
    let what = format!(
        "the master key file {} can't be read or made: {error}",
        path.display()
    );
    config("master_key_file", what).source(error)
}

fn config(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> MasterKey {
        MasterKey::from_base64(&Secret::new(STANDARD.encode([7; KEY_BYTES]))).unwrap()
    }

    /// As a key, and as what is stored: used, or refused without being shown.
    fn is_used_or_refused(key: &MasterKey, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        match MasterKey::from_base64(&Secret::new(text.clone())) {
            Ok(_) => assert!(STANDARD.decode(text.trim()).is_ok_and(|it| it.len() == KEY_BYTES)),
            Err(error) => {
                assert_eq!(error.code(), "master_key_invalid");
                assert!(text.len() < 24 || !format!("{error:?}").contains(&text));
            }
        }
        let instance_id = InstanceId::generate();
        let (nonce, ciphertext) = bytes.split_at(bytes.len().min(NONCE_BYTES));
        let mut stored = Stored {
            key_id: key.id.to_vec(),
            nonce: nonce.to_vec(),
            ciphertext: ciphertext.to_vec(),
        };
        // Only what this key has encrypted, for this instance, is a password.
        let refused = |stored: &Stored| key.decrypt(instance_id, stored).unwrap_err().kind();
        assert_eq!(refused(&stored), ErrorKind::Internal);
        let (nonce, ciphertext) = key.encrypt(instance_id, &Secret::new(text.clone())).unwrap();
        stored.nonce = nonce.to_vec();
        stored.ciphertext = ciphertext;
        assert_eq!(key.decrypt(instance_id, &stored).unwrap().reveal(), &text);
        stored.key_id = bytes.to_vec();
        assert_eq!(refused(&stored), ErrorKind::Config);
    }

    #[test]
    fn fuzz_stored_password() {
        let key = key();
        bolero::check!().for_each(|bytes: &[u8]| is_used_or_refused(&key, bytes));
    }

    proptest! {
        #[test]
        fn whatever_is_stored_it_is_used_or_refused(
            bytes: Vec<u8>, near in "[ \n]?[A-Za-z0-9+/]{40,44}={0,2}\n?", damaged: prop::sample::Index, bit in 0..8_u8,
        ) {
            let key = key();
            is_used_or_refused(&key, &bytes);
            is_used_or_refused(&key, near.as_bytes());
            let instance_id = InstanceId::generate();
            let (nonce, mut ciphertext) = key.encrypt(instance_id, &Secret::new(near)).unwrap();
            let damaged = damaged.index(ciphertext.len());
            ciphertext[damaged] ^= 1 << bit;
            let stored = Stored { key_id: key.id.to_vec(), nonce: nonce.to_vec(), ciphertext };
            prop_assert_eq!(key.decrypt(instance_id, &stored).unwrap_err().kind(), ErrorKind::Internal);
        }
    }
}
