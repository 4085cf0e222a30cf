#include "environment/profiler.hpp"

// A part of the toolkit that not every installation has.
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define ARBITER_HAS_NVTX 1
#else
#define ARBITER_HAS_NVTX 0
#endif

namespace arbiter {

#if ARBITER_HAS_NVTX

// Null where no profiler has been injected into this process.
ProfilerDomain::ProfilerDomain() : domain_(nvtxDomainCreateA("arbiter")) {}

ProfilerDomain::~ProfilerDomain() {
  if (domain_ != nullptr) nvtxDomainDestroy(static_cast<nvtxDomainHandle_t>(domain_));
}

void ProfilerDomain::begin(const std::string& name, std::int64_t tokens) const noexcept {
  nvtxEventAttributes_t range{};
  range.version = NVTX_VERSION;
  range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  range.messageType = NVTX_MESSAGE_TYPE_ASCII;
  range.message.ascii = name.c_str();
  range.payloadType = NVTX_PAYLOAD_TYPE_INT64;
  range.payload.llValue = tokens;
  nvtxDomainRangePushEx(static_cast<nvtxDomainHandle_t>(domain_), &range);
}

void ProfilerDomain::end() const noexcept { nvtxDomainRangePop(static_cast<nvtxDomainHandle_t>(domain_)); }

#else

ProfilerDomain::ProfilerDomain() = default;
ProfilerDomain::~ProfilerDomain() = default;
void ProfilerDomain::begin(const std::string&, std::int64_t) const noexcept {}
void ProfilerDomain::end() const noexcept {}

#endif

}  // namespace arbiter
