-- A work database as schema version 2 left it: never edited. Its contents are in version-2.jsonl.
PRAGMA application_id = 1095909972;
PRAGMA user_version = 2;

BEGIN TRANSACTION;
CREATE TABLE environment (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  device TEXT NOT NULL,
  gpu_name TEXT NOT NULL,
  sm_count INTEGER NOT NULL CHECK (sm_count >= 0),
  compute_capability INTEGER NOT NULL CHECK (compute_capability >= 0),
  memory_clock_mhz INTEGER NOT NULL CHECK (memory_clock_mhz >= 0),
  power_limit_watts INTEGER NOT NULL CHECK (power_limit_watts >= 0),
  driver_version TEXT NOT NULL,
  cuda_runtime TEXT NOT NULL,
  compiler_version TEXT NOT NULL,
  nccl_version TEXT NOT NULL,
  topology TEXT NOT NULL,
  nodes INTEGER NOT NULL CHECK (nodes >= 0),
  ranks_per_node INTEGER NOT NULL CHECK (ranks_per_node >= 0),
  symmetric_memory TEXT NOT NULL,
  multicast INTEGER NOT NULL CHECK (multicast IN (0, 1)),
  nccl_variables TEXT NOT NULL,
  arbiter_version TEXT NOT NULL,
  catalogue_hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO environment VALUES('d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','cuda','NVIDIA H200',132,90,3201,700,'580.95','13.0','13.0','2.28.3','nvlink_switch',1,4,'vmm',0,'{"NCCL_ALGO":"Ring","NCCL_PROTO":"LL,\"LL128\" = \\ ü"}','0.1.0','c0ffee');
CREATE TABLE run (
  id TEXT PRIMARY KEY CHECK (length(id) > 0),
  environment TEXT NOT NULL REFERENCES environment (key),
  host TEXT NOT NULL,
  command TEXT NOT NULL,
  started INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  sm_clock_start_mhz INTEGER NOT NULL,
  sm_clock_end_mhz INTEGER NOT NULL,
  power_start_watts INTEGER NOT NULL,
  power_end_watts INTEGER NOT NULL,
  clocks_dropped INTEGER NOT NULL CHECK (clocks_dropped IN (0, 1))
) STRICT, WITHOUT ROWID;
INSERT INTO run VALUES('5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','node0','arbiter tune --world 4 --db work.db',1763900000,1763900060,1980,1965,120,410,1);
CREATE TABLE problem (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  pattern TEXT NOT NULL,
  dtype TEXT NOT NULL,
  hidden INTEGER NOT NULL CHECK (hidden > 0),
  tokens INTEGER NOT NULL CHECK (tokens > 0),
  world INTEGER NOT NULL CHECK (world > 0),
  mode TEXT NOT NULL,
  in_place INTEGER NOT NULL CHECK (in_place IN (0, 1))
) STRICT, WITHOUT ROWID;
INSERT INTO problem VALUES('d961b12a0a8a1b89df03d5b76bb00f86d9be6f452f9589413a0a21dbbdb346ff','allreduce_residual_rmsnorm','bf16',8192,1,4,'graph',0);
INSERT INTO problem VALUES('e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','allreduce_residual_rmsnorm','bf16',8192,64,4,'graph',0);
CREATE TABLE candidate (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  backend TEXT NOT NULL,
  algorithm TEXT NOT NULL,
  name TEXT NOT NULL,
  numerics TEXT NOT NULL,
  source_hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO candidate VALUES('6910b636a6f3ceb7e9fbbc4732bcbb887cb29e5898fc6b183d67739bdd466672','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=3','rank_order_fp32','feed3');
INSERT INTO candidate VALUES('812674965d80f4d71faafd36ca790d285026795da2ed9febc173fa798d0b7fb0','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=2','rank_order_fp32','feed2');
INSERT INTO candidate VALUES('84f31d81dc39399ec2ca53abbd509c49506fc9ab9cc663c55e14b06311410c0d','nccl','classic','nccl/classic:algorithm=ring,protocol=ll128,channels=8','nccl','');
INSERT INTO candidate VALUES('9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=0','rank_order_fp32','feed0');
INSERT INTO candidate VALUES('b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306','nccl','classic','nccl/classic','nccl','');
INSERT INTO candidate VALUES('c929fae7bd32a601876007e68f807a661083dc7735b49b2dea72ae71a390f43f','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=1','rank_order_fp32','feed1');
CREATE TABLE trial (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  problem TEXT NOT NULL REFERENCES problem (key),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  run TEXT NOT NULL REFERENCES run (id),
  sequence INTEGER NOT NULL CHECK (sequence > 0),
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  calls_per_sample INTEGER NOT NULL CHECK (calls_per_sample >= 0),
  blocks INTEGER NOT NULL CHECK (blocks >= 0),
  UNIQUE (environment, problem, candidate, sequence, run)
) STRICT, WITHOUT ROWID;
INSERT INTO trial VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','d961b12a0a8a1b89df03d5b76bb00f86d9be6f452f9589413a0a21dbbdb346ff','c929fae7bd32a601876007e68f807a661083dc7735b49b2dea72ae71a390f43f','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'done','',50,16);
INSERT INTO trial VALUES('49d86aa1d3a4546626807d11beb95091c36c3913986cc1d5bf6027c037eca69c','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','6910b636a6f3ceb7e9fbbc4732bcbb887cb29e5898fc6b183d67739bdd466672','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'running','',0,0);
INSERT INTO trial VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'done','',50,16);
INSERT INTO trial VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','c929fae7bd32a601876007e68f807a661083dc7735b49b2dea72ae71a390f43f','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'done','',50,16);
INSERT INTO trial VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','d961b12a0a8a1b89df03d5b76bb00f86d9be6f452f9589413a0a21dbbdb346ff','9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'done','',50,16);
INSERT INTO trial VALUES('b28ff3810767cdc4f024a8afb7edb6f9276a7b8fe0614568780087297755fbaf','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','812674965d80f4d71faafd36ca790d285026795da2ed9febc173fa798d0b7fb0','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b01',1,'wrong','rank 1, element 3: 1, expected 2',50,16);
CREATE TABLE sample (
  trial TEXT NOT NULL REFERENCES trial (key) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
  us REAL NOT NULL CHECK (us >= 0),
  PRIMARY KEY (trial, ordinal)
) STRICT, WITHOUT ROWID;
INSERT INTO sample VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5',0,5.0);
INSERT INTO sample VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5',1,4.875);
INSERT INTO sample VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5',2,0.2000000000000000111);
INSERT INTO sample VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5',3,2.0000000000000001244e-09);
INSERT INTO sample VALUES('3d543c7e05039150ed2e054de3d521043e919620d109b84d53a347eb1abdb5b5',4,24691.355999999999766);
INSERT INTO sample VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7',0,2.5);
INSERT INTO sample VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7',1,2.4375);
INSERT INTO sample VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7',2,0.10000000000000000555);
INSERT INTO sample VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('53668e42ec7037978cbe7d7f07a9830ccd9fe28fd3f83de9a310ea8856e277a7',4,12345.677999999999883);
INSERT INTO sample VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c',0,5.0);
INSERT INTO sample VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c',1,4.875);
INSERT INTO sample VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c',2,0.2000000000000000111);
INSERT INTO sample VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c',3,2.0000000000000001244e-09);
INSERT INTO sample VALUES('6aa39e2d7a03df47f011630f3eed18b4dc0f415acdf95f28449984daf56df07c',4,24691.355999999999766);
INSERT INTO sample VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0',0,2.5);
INSERT INTO sample VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0',1,2.4375);
INSERT INTO sample VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0',2,0.10000000000000000555);
INSERT INTO sample VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('82e4bc635d7d48a96800813093279add6df3132af77c454684964577846113b0',4,12345.677999999999883);
CREATE TABLE decision (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  mode TEXT NOT NULL,
  world INTEGER NOT NULL CHECK (world > 0),
  dtype TEXT NOT NULL,
  pattern TEXT NOT NULL,
  hidden INTEGER NOT NULL CHECK (hidden > 0),
  tokens_min INTEGER NOT NULL CHECK (tokens_min > 0),
  tokens_max INTEGER NOT NULL CHECK (tokens_max >= tokens_min),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  median_us REAL NOT NULL CHECK (median_us >= 0),
  runner_up TEXT REFERENCES candidate (key),
  runner_up_median_us REAL NOT NULL CHECK (runner_up_median_us >= 0),
  UNIQUE (environment, mode, world, dtype, pattern, hidden, tokens_min)
) STRICT, WITHOUT ROWID;
INSERT INTO decision VALUES('18a7483be27f98e27519f18e149c1bd17ff25584ef184041aeb244611a0ddbe9','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',4,'bf16','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('2607c85097c410f1df99e4caa3090c37b6390a1543534197dedddb8079e2100a','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',2,'bf16','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('3a3031388e1efec7709edafe73b529129d2f6689f771bb5f73d170c32dd6ebd1','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',2,'fp32','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('47d105dd8dacc1c1a78111b04104b5522bf348538c25876ab09c39f1a0f0b368','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',2,'fp32','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('96abb3553d9fa7ae395f4cb959aaf2d350e2ada1e034363e08b212a1c48e7767','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',2,'bf16','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('a6bf9f00bef0e02356b7a6955333a2694ef95a2a870f12a42bd56ab198fa6926','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6','graph',4,'bf16','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
CREATE TABLE nccl_choice (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  world INTEGER NOT NULL CHECK (world > 0),
  bytes_min INTEGER NOT NULL CHECK (bytes_min > 0),
  bytes_max INTEGER NOT NULL CHECK (bytes_max >= bytes_min),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  median_us REAL NOT NULL CHECK (median_us >= 0),
  forced TEXT REFERENCES candidate (key),
  forced_median_us REAL NOT NULL CHECK (forced_median_us >= 0),
  UNIQUE (environment, world, bytes_min)
) STRICT, WITHOUT ROWID;
INSERT INTO nccl_choice VALUES('1f8c26854e4b03b37b57ddf07733425c6fd7312f49bcc47cafe8eecc852c1061','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6',4,1,65536,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',9.5,NULL,0.0);
INSERT INTO nccl_choice VALUES('ee5bc0c7edc41306fbbc2e45d8e6b055fb433ab6d85b5010c2894075d2b415c9','d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6',4,65537,1048576,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',12.25,'84f31d81dc39399ec2ca53abbd509c49506fc9ab9cc663c55e14b06311410c0d',13.5);
CREATE INDEX trial_running ON trial (environment) WHERE status = 'running';
COMMIT;
