-- A work database as schema version 3 left it, with the kernel of a snapshot: never edited. Its contents are in
-- version-3.jsonl.
PRAGMA application_id = 1095909972;
PRAGMA user_version = 3;

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
, nvlink_domains TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;
INSERT INTO environment VALUES('ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','cuda','NVIDIA H200',132,90,3201,700,'580.95','13.0','13.0','2.28.3','nvlink_switch',1,4,'vmm',0,'{"NCCL_ALGO":"Ring","NCCL_PROTO":"LL,\"LL128\" = \\ ü"}','0.1.0','c0ffee','1');
INSERT INTO environment VALUES('e921b43e467512ebdef2d3b7898e7a03b7cdb605d3397a25e658c60de7cc4314','cuda','NVIDIA H200',132,90,3201,700,'580.95','13.0','13.0','2.28.3','nvlink_switch',2,4,'vmm',0,'{"NCCL_ALGO":"Ring","NCCL_PROTO":"LL,\"LL128\" = \\ ü"}','0.1.0','c0ffee','1+1');
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
, digest TEXT NOT NULL DEFAULT '' CHECK (length(digest) IN (0, 64))) STRICT, WITHOUT ROWID;
INSERT INTO run VALUES('5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','node0','arbiter tune --world 4 --db work.db',1764100000,1764100060,1980,1965,120,640,0,'18378a2aa81b04d2806f1180752794570aef5d49fec293a82cc08e6964f94b1d');
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
INSERT INTO candidate VALUES('485df17dd6f5c0f65a25397ee3e17a70d94cada089e1473e3c22b39949710a83','nccl','classic','nccl/classic:algo=ring,channels=8,proto=ll128','nccl','');
INSERT INTO candidate VALUES('6910b636a6f3ceb7e9fbbc4732bcbb887cb29e5898fc6b183d67739bdd466672','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=3','rank_order_fp32','feed3');
INSERT INTO candidate VALUES('812674965d80f4d71faafd36ca790d285026795da2ed9febc173fa798d0b7fb0','trtllm','oneshot_push','trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=2','rank_order_fp32','feed2');
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
  blocks INTEGER NOT NULL CHECK (blocks >= 0), digest TEXT NOT NULL DEFAULT '' CHECK (length(digest) IN (0, 64)),
  UNIQUE (environment, problem, candidate, sequence, run)
) STRICT, WITHOUT ROWID;
INSERT INTO trial VALUES('35965732ef851158d09fada91854427e060b619ae0e607646de0c2747c873519','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','812674965d80f4d71faafd36ca790d285026795da2ed9febc173fa798d0b7fb0','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'wrong','rank 1: element 7 is 3, expected 4',50,16,'756378a99e7ee21ac5f844a1ebe4b131537ed743088153038b88dc75c14375d5');
INSERT INTO trial VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','c929fae7bd32a601876007e68f807a661083dc7735b49b2dea72ae71a390f43f','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'done','',50,16,'1d1716aa2a151c3c63ca2ec9aa738964553f9d69bae22811865e13797366c3a3');
INSERT INTO trial VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','d961b12a0a8a1b89df03d5b76bb00f86d9be6f452f9589413a0a21dbbdb346ff','9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'done','',50,16,'1d1716aa2a151c3c63ca2ec9aa738964553f9d69bae22811865e13797366c3a3');
INSERT INTO trial VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'done','',50,16,'1d1716aa2a151c3c63ca2ec9aa738964553f9d69bae22811865e13797366c3a3');
INSERT INTO trial VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','d961b12a0a8a1b89df03d5b76bb00f86d9be6f452f9589413a0a21dbbdb346ff','c929fae7bd32a601876007e68f807a661083dc7735b49b2dea72ae71a390f43f','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'done','',50,16,'1d1716aa2a151c3c63ca2ec9aa738964553f9d69bae22811865e13797366c3a3');
INSERT INTO trial VALUES('a4431e68d1d2f542e1aba40278416a990d3f6ba08ea341a7fa8be8ae33c381a3','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69','6910b636a6f3ceb7e9fbbc4732bcbb887cb29e5898fc6b183d67739bdd466672','5f0c9a52-6d0e-4a51-9a58-0c7f3f8d1b03',1,'running','',0,0,'d7d4732a7e693cb9bd21cde60c21e1aca6e461b111306e900c0eb35ac6244543');
CREATE TABLE sample (
  trial TEXT NOT NULL REFERENCES trial (key) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
  us REAL NOT NULL CHECK (us >= 0),
  PRIMARY KEY (trial, ordinal)
) STRICT, WITHOUT ROWID;
INSERT INTO sample VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22',0,2.5);
INSERT INTO sample VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22',1,2.4375);
INSERT INTO sample VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22',2,0.10000000000000000555);
INSERT INTO sample VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('3df5a063cb218106168e2d9fee7f386394dc09b28cf2a25745a633c02e5bbe22',4,12345.677999999999883);
INSERT INTO sample VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa',0,2.5);
INSERT INTO sample VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa',1,2.4375);
INSERT INTO sample VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa',2,0.10000000000000000555);
INSERT INTO sample VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('3dfc7f71c70ece75c8784214408a0527e228623a7608ac1a2a259f1b0ed31caa',4,12345.677999999999883);
INSERT INTO sample VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b',0,2.5);
INSERT INTO sample VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b',1,2.4375);
INSERT INTO sample VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b',2,0.10000000000000000555);
INSERT INTO sample VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('69f69e6d2d4a47ecf24f7bbb7d2da599c9e80273d47456c72b96309fcc323a9b',4,12345.677999999999883);
INSERT INTO sample VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a',0,2.5);
INSERT INTO sample VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a',1,2.4375);
INSERT INTO sample VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a',2,0.10000000000000000555);
INSERT INTO sample VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a',3,1.0000000000000000622e-09);
INSERT INTO sample VALUES('954adda5656783f104dc93fc84edc1a24fbf8d96e0701f0670bc462b6c97e51a',4,12345.677999999999883);
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
INSERT INTO decision VALUES('6c2fd478fd5540a2f547367d7d8738c8ca9d92cdbffafbafb814b7cfdd596c8e','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',4,'bf16','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('721b50e2eff684ce8a96628ff2e6f2d56c3bafe5edd047032b0048b10c63dc7c','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',2,'fp32','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('b30103e4d5d39877be2239bc217e15a34f37de628f8d3dac685d174e3eac2a13','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',2,'bf16','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('c4b768ffef7aa7395acfcea0a7b406bda1f59979b4318bc281e5cbd4e41b5b25','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',4,'bf16','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('ed6cd834a95c36e2af956e1d9dd848df06d1622bfff234bdabd9bc8b24194024','e921b43e467512ebdef2d3b7898e7a03b7cdb605d3397a25e658c60de7cc4314','graph',2,'bf16','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('f40d63871cfb85abc10da081c8c3d59cb5cc8fb440f38ec574842c4abbe8869c','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',2,'fp32','allreduce_residual_rmsnorm',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
INSERT INTO decision VALUES('f69aa084c56f67057932111d190362688cfd9b22e9889efa87e7d97903ebac20','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f','graph',2,'bf16','allreduce',8192,1,100,'9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad',2.2999999999999998223,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',7.7000000000000001776);
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
INSERT INTO nccl_choice VALUES('761db1d9bfc420ecd04ad8d8952ac6a82b7639eeb6cb2fd0855d8374c63c30fd','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f',4,1,65536,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',9.5,NULL,0.0);
INSERT INTO nccl_choice VALUES('a37d38038a766e23d6d2572cd089e4288310fcad97e4454566b0d625649f7863','ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f',4,65537,1048576,'b6d2c085cc37dbdc69365cbe3c73fbed4d34538069d18f84bf9ba6e2812fb306',12.25,'485df17dd6f5c0f65a25397ee3e17a70d94cada089e1473e3c22b39949710a83',12.5);
CREATE TABLE kernel (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  name TEXT NOT NULL,
  source_hash TEXT NOT NULL CHECK (length(source_hash) = 64),
  target TEXT NOT NULL CHECK (length(target) > 0),
  entry TEXT NOT NULL CHECK (length(entry) > 0),
  registers INTEGER NOT NULL,
  shared_bytes INTEGER NOT NULL,
  spill_bytes INTEGER NOT NULL,
  stack_bytes INTEGER NOT NULL,
  image BLOB NOT NULL CHECK (length(image) > 0),
  digest TEXT NOT NULL CHECK (length(digest) = 64)
) STRICT, WITHOUT ROWID;
CREATE INDEX trial_running ON trial (environment) WHERE status = 'running';
INSERT INTO kernel VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','trtllm/oneshot_push:threads=256 rank=0','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','compute_90','arbiter_kernel',40,0,0,0,X'2e76657273696f6e20382e370a2e74617267657420736d5f39300a','5b681fcff3b6425564919abc7625ffdfc273567d1f5b65cf64305cb2ba4611d6');
COMMIT;
