//! Identifiers. Each is a UUID of its own type, so that one can't be passed for another.

use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $new:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
            utoipa::ToSchema,
        )]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new identifier, never used before.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::$new())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// An instance's identity: kept for ever, while its name can be used again.
    InstanceId, new_v4
}
id! {
    /// An operation's identity; sorts by the time it was requested.
    OperationId, now_v7
}

id! {
    /// An API token's identity.
    TokenId, now_v7
}

impl InstanceId {
    /// The first eight hexadecimal digits: with the name in front, the name of what a platform makes for it.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.simple().to_string()[..8].to_owned()
    }
}
