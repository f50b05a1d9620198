"""Tables as the JVM service keeps them, and what sessions, revocation and the audit trail add."""

from alembic import op

from cloud.messaging import outbox

revision = "0001"
down_revision = None

# The names of unique constraints are Hibernate's: under others a JVM start adds a second one.
_TABLES = """
CREATE TABLE IF NOT EXISTS users (
    id bigserial PRIMARY KEY,
    username varchar(50) NOT NULL CONSTRAINT uk_r43af9ap4edm43mmtq01oddj6 UNIQUE,
    email varchar(255) CONSTRAINT uk_6dotkott2kjsp8vw4d0m25fb7 UNIQUE,
    phone_number varchar(255),
    password varchar(255) NOT NULL,
    status varchar(255) NOT NULL
        CONSTRAINT users_status_check CHECK (status IN ('ACTIVE', 'LOCKED', 'DISABLED')),
    failed_login_attempts integer NOT NULL,
    locked_until timestamp(6),
    last_login_at timestamp(6),
    last_login_ip varchar(255),
    password_changed_at timestamp(6),
    created_at timestamp(6),
    updated_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS user_profiles (
    user_id bigint PRIMARY KEY REFERENCES users,
    full_name varchar(255),
    date_of_birth varchar(255),
    country varchar(255),
    gender varchar(255),
    age varchar(255),
    avatar_url varchar(255)
);
CREATE TABLE IF NOT EXISTS user_interests (
    user_id bigint NOT NULL REFERENCES user_profiles,
    genre varchar(255)
);
CREATE TABLE IF NOT EXISTS roles (
    id bigserial PRIMARY KEY,
    name varchar(255) NOT NULL CONSTRAINT uk_ofx66keruapi6vyqpv6f2or37 UNIQUE,
    description varchar(255),
    created_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS permissions (
    id bigserial PRIMARY KEY,
    name varchar(255) NOT NULL CONSTRAINT uk_pnvtwliis6p05pn6i3ndjrqt2 UNIQUE,
    description varchar(255),
    resource varchar(255),
    action varchar(255),
    created_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS user_roles (
    user_id bigint NOT NULL REFERENCES users,
    role_id bigint NOT NULL REFERENCES roles,
    PRIMARY KEY (user_id, role_id)
);
CREATE TABLE IF NOT EXISTS role_permissions (
    role_id bigint NOT NULL REFERENCES roles,
    permission_id bigint NOT NULL REFERENCES permissions,
    PRIMARY KEY (role_id, permission_id)
);
CREATE TABLE IF NOT EXISTS refresh_tokens (
    id bigserial PRIMARY KEY,
    token varchar(512) NOT NULL CONSTRAINT uk_ghpmfn23vmxfu3spu3lfg4r2d UNIQUE,
    user_id bigint NOT NULL,
    device_info varchar(255),
    ip_address varchar(255),
    user_agent varchar(255),
    expires_at timestamp(6) NOT NULL,
    revoked_at timestamp(6),
    revoked_reason varchar(255),
    created_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS user_sessions (
    id bigserial PRIMARY KEY,
    user_id bigint NOT NULL,
    refresh_token_id bigint,
    device_info varchar(255),
    device_type varchar(255),
    browser varchar(255),
    os varchar(255),
    ip_address varchar(255),
    location varchar(255),
    user_agent varchar(255),
    is_active boolean NOT NULL,
    last_access_at timestamp(6),
    created_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS token_blacklist (
    id bigserial PRIMARY KEY,
    jti varchar(255) NOT NULL CONSTRAINT uk_479yp5jc6091k9yltm2as3pgf UNIQUE,
    user_id bigint,
    token_type varchar(255),
    expires_at timestamp(6) NOT NULL,
    reason varchar(255),
    created_at timestamp(6)
);
CREATE TABLE IF NOT EXISTS audit_logs (
    id bigserial PRIMARY KEY,
    user_id bigint,
    target_user_id bigint,
    action varchar(255) NOT NULL CONSTRAINT audit_logs_action_check CHECK (action IN (
        'LOGIN', 'LOGIN_FAILED', 'LOGOUT', 'LOGOUT_ALL', 'REGISTER', 'PASSWORD_CHANGE',
        'PASSWORD_RESET', 'TOKEN_REFRESH', 'TOKEN_REVOKE', 'ROLE_ASSIGN', 'ROLE_REVOKE',
        'USER_LOCK', 'USER_UNLOCK', 'USER_DISABLE', 'PERMISSION_GRANT', 'PERMISSION_REVOKE',
        'PROFILE_UPDATE')),
    ip_address varchar(255),
    user_agent varchar(255),
    details text,
    success boolean NOT NULL,
    error_message varchar(255),
    created_at timestamp(6)
);
"""

# All nullable: a JVM service inserts rows without them.
_ADDED = """
ALTER TABLE users ADD COLUMN IF NOT EXISTS email_verified_at timestamp(6);
ALTER TABLE refresh_tokens ADD COLUMN IF NOT EXISTS session_id bigint;
ALTER TABLE user_sessions ADD COLUMN IF NOT EXISTS mirrored_at timestamp(6);
ALTER TABLE token_blacklist ADD COLUMN IF NOT EXISTS mirrored_at timestamp(6);
CREATE TABLE IF NOT EXISTS access_tokens (
    jti varchar(64) PRIMARY KEY,
    user_id bigint NOT NULL,
    session_id bigint,
    expires_at timestamp(6) NOT NULL
);
"""

# Names are compared in any case, but not by a unique index: older rows may differ by case alone.
_INDEXES = """
CREATE INDEX IF NOT EXISTS ix_users_username ON users (lower(username));
CREATE INDEX IF NOT EXISTS ix_users_email ON users (lower(email));
CREATE INDEX IF NOT EXISTS ix_user_interests_user ON user_interests (user_id);
CREATE INDEX IF NOT EXISTS ix_refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX IF NOT EXISTS ix_refresh_tokens_expiry ON refresh_tokens (expires_at);
CREATE INDEX IF NOT EXISTS ix_user_sessions_user ON user_sessions (user_id, is_active);
CREATE INDEX IF NOT EXISTS ix_user_sessions_token ON user_sessions (refresh_token_id);
CREATE INDEX IF NOT EXISTS ix_user_sessions_pending ON user_sessions (id)
    WHERE mirrored_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_token_blacklist_expiry ON token_blacklist (expires_at);
CREATE INDEX IF NOT EXISTS ix_token_blacklist_pending ON token_blacklist (id)
    WHERE mirrored_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_access_tokens_user ON access_tokens (user_id);
CREATE INDEX IF NOT EXISTS ix_access_tokens_expiry ON access_tokens (expires_at);
CREATE INDEX IF NOT EXISTS ix_audit_logs_user ON audit_logs (user_id, created_at DESC);
CREATE INDEX IF NOT EXISTS ix_audit_logs_time ON audit_logs (created_at DESC);
"""


def upgrade() -> None:
    """Create what is missing; a JVM service may have made its tables first."""
    for statements in (_TABLES, _ADDED, _INDEXES, *outbox.DDL):
        op.execute(statements)
